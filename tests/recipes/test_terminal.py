"""What reaches a terminal: names as they are, errors of bounded length, tables that cut no figure."""

import io
import os
import random
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console

from fusedface.recipes.host.terminal import (
    LONGEST_MESSAGE,
    LastingConsole,
    Table,
    bounded,
    error_text,
    plain,
    say,
    visible,
    working,
)


def printed(what, width=80, **options):
    stream = io.StringIO()
    console = Console(file=stream, width=width, **options)
    say(console, what) if isinstance(what, str) else console.print(what)
    return stream.getvalue()


class Unread(io.StringIO):
    """A pipe whose reader has ended."""

    def write(self, text):
        raise BrokenPipeError


def test_a_console_that_nobody_reads_goes_quiet(monkeypatch):
    moved = []
    monkeypatch.setattr(os, "dup2", lambda *descriptors: moved.append(descriptors))
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 1, raising=False)
    console = LastingConsole(file=Unread())
    say(console, "a line")
    say(console, "another line")
    assert console.quiet
    assert len(moved) == 1  # what is still to be flushed at the end goes nowhere


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("\x9b2J", r"\x9b2J"),  # the same command in one byte
        ("one\r\ntwo\a\b\0", r"one\r\ntwo\x07\x08\x00"),
        ("txt.\u202egnp", r"txt.\u202egnp"),  # would show the rest from right to left
        ("\udcff.png", r"\udcff.png"),  # a file name that is not UTF-8
        ("Zoë 李雷 ±3 Ωmega 😀 نیم\u200cفاصله", "Zoë 李雷 ±3 Ωmega 😀 نیم\u200cفاصله"),
        ("[red]a[/red] [/x] :smile: [link=x]", "[red]a[/red] [/x] :smile: [link=x]"),
    ],
)
def test_a_text_acts_on_nothing(text, shown):
    assert visible(text) == shown
    for options in ({}, {"force_terminal": True, "color_system": None}):
        assert printed(text, **options) == shown + "\n"
        table = Table(text, [text], num_keys=1)
        table.add_row(text)
        lines = [line.strip() for line in printed(table, **options).splitlines()]
        assert [line for line in lines if set(line) - {"─"}] == [shown] * 3


def test_what_is_shown_while_it_is_done_is_a_text_too():
    stream = io.StringIO()
    with working(Console(file=stream, force_terminal=True, width=80), "[/x] \x1b[2J") as change:
        change("[/y] \x1b[2J")
    assert r"[/y] \x1b[2J" in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()


def test_an_error_keeps_its_lines_and_both_ends():
    assert error_text(ValueError("first\nsecond \x1bc")) == "first\nsecond \\x1bc"
    text = error_text(ValueError("begin " + 70_000 * "x" + " end"))
    assert len(text) < LONGEST_MESSAGE + 50
    assert text.startswith("begin xxx")
    assert text.endswith("xxx end")
    assert f"{70_010 - LONGEST_MESSAGE:,} characters" in text
    assert bounded("short") == "short"
    assert len(error_text(ValueError(70_000 * "\x1b"))) < LONGEST_MESSAGE + 50


def figures(rng):
    """Nine cells as the tables have them."""
    mean = rng.uniform(0, 100)
    return [
        f"{mean:.2f} ± {mean / 9:.2f}", f"{mean:.2f} ± {mean / 9:.2f} (2 of 3)", f"{mean:.2f}", "-",
        f"{rng.randrange(10**9):,}", f"{mean:.1e}", f"{mean:.3f} ({mean:.3f})", f"{mean:.0f}",
        f"{rng.randrange(10**9):,} + {rng.randrange(10**9):,}",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [36, 40, 60, 80, 120, 250])
@pytest.mark.parametrize("num_figures", [1, 2, 5, 9])
def test_a_table_cuts_no_figure(width, num_figures):
    rng = random.Random(num_figures)
    headings = ["final, %", "area under ROC", "steps to 90% of best", "m", *"abcde"][:num_figures]
    table = Table("T", ["loss", "verdicts"], headings)
    rows = [[f"mobilefacenet-{i}-{'x' * i * 9}", f"{i} converged"] for i in range(5)]
    rows = [row + figures(rng)[:num_figures] for row in rows]
    for row in rows:
        table.add_row(*row)
    text = printed(table, width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    for row in rows:
        for figure in row[2:]:
            assert f" {figure}" in text.replace("\n", " "), text


def test_keys_stay_with_their_figures():
    """Wide, one table; narrower, tables with the same first column; narrow, a paragraph a row."""
    table = Table("", ["loss"], ["accuracy", "true accept rate", "milliseconds", "mebibytes"])
    table.add_row("arcface", "98.76", "54.32", "10.11", "12.13")
    wide, narrower, narrow = (
        [line.split() for line in printed(table, width).splitlines()] for width in (80, 32, 20)
    )
    assert ["arcface", "98.76", "54.32", "10.11", "12.13"] in wide
    assert [line for line in narrower if line and line[0] == "arcface"] == [
        ["arcface", "98.76", "54.32"],
        ["arcface", "10.11", "12.13"],
    ]
    assert narrow[:2] == [["arcface"], ["accuracy:", "98.76"]]


def test_two_keys_are_said_once():
    table = Table("", ["set", "figure"], ["trained"], num_keys=2)
    for name in ("lfw", "cfp"):
        for figure in ("accuracy", "area"):
            table.add_row(name, figure, "1.0")
    rows = [line.split() for line in printed(table).splitlines()]
    assert [row for row in rows if row and row[-1] == "1.0"] == [
        ["lfw", "accuracy", "1.0"], ["area", "1.0"], ["cfp", "accuracy", "1.0"], ["area", "1.0"],
    ]  # fmt: skip


def test_a_coloured_cell_and_a_wrong_row():
    table = Table("", ["loss"], ["verdict"])
    table.add_row("a", plain("converged", "green"))
    shown = printed(table, force_terminal=True, color_system="standard")
    assert "\x1b[32mconverged" in shown
    with pytest.raises(ValueError, match="a row needs 2 cells, got 1"):
        table.add_row("a")
