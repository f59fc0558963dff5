"""The tables at the end of the suite on a GPU; last, time of the main alternatives by case."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fusedface.bench import results, tables
from fusedface.recipes.host.terminal import Table, plain

TARGET = 10_000  # images a second of MobileFaceNet on one H100: a target, not a measurement
TARGETS = (
    "targets of CurricularFace in bfloat16 on one H100: 512x85742x128 in 0.13 ms or less, 512x85742x512 in "
    "0.45 ms; at D = 128 a twentieth of the official formulation's time late, a quarter of compiled eager's"
)
COLUMNS: dict[str, Callable[[str], bool]] = {
    "ours bf16": lambda name: name == "fused curricularface bfloat16",
    "in graph": lambda name: name.endswith("CUDA graph"),
    "E kept": lambda name: name.endswith("exponentials kept"),
    "ours f32": lambda name: name == "fused curricularface float32",
    "official": lambda name: name == "official curricularface",
    "eager bf16": lambda name: name == "eager curricularface bfloat16",
    "compiled bf16": lambda name: name == "compiled eager curricularface bfloat16",
    "chunked bf16": lambda name: name == "auto-chunked arcface bfloat16",
    "torch lce": lambda name: name.startswith("torch linear_cross_entropy"),
    "liger bf16": lambda name: name == "liger normface bfloat16",
    "liger hopper": lambda name: name == "liger hopper normface bfloat16",
    "quack bf16": lambda name: name == "quack normface bfloat16",
    "cce bf16": lambda name: name == "cut-cross-entropy normface bfloat16",
}


def print_summary(out: Path, console: Console) -> None:
    """Print unknowns, the host's work and images a second; last forward and backward in ms by case."""
    table = Table("forward + backward, ms", ["case"], [*COLUMNS, "ours of limit"])
    for name in ("kernels", "large", "chunker"):
        for case, rows in _by_case(_rows(out, name)).items():
            table.add_row(case, *_line(rows))
    before = (
        ("unknowns", tables.print_unknowns),
        ("host", tables.print_host),
        ("step", _print_steps),
    )
    for name, show in before:
        if rows := _rows(out, name):
            show(rows, console)
    console.print(table)
    console.print(plain(TARGETS))


def _print_steps(rows: Sequence[dict[str, Any]], console: Console) -> None:
    tables.print_trained_steps(rows, console)
    console.print(plain(f"target of MobileFaceNet on one H100: {TARGET:,} images/s"))


def _rows(out: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a part; none if it has not run."""
    path = out / f"{name}.json"
    return results.read(path)["rows"] if path.exists() else []


def _by_case(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        case = row["case"]
        sizes = f"{case['num_rows']}x{case['num_classes']}x{case['dim']} {case['phase']}"
        cases.setdefault(sizes, []).append(row)
    return cases


def _line(rows: Sequence[dict[str, Any]]) -> list[str]:
    found = {name: _row(rows, is_it) for name, is_it in COLUMNS.items()}
    share = (found["ours bf16"] or {}).get("of_limit")
    return [*map(_cell, found.values()), "" if share is None else f"{share:.0%}"]


def _row(rows: Sequence[dict[str, Any]], is_it: Callable[[str], bool]) -> dict[str, Any] | None:
    """The row of a head of a case; None if it is not there."""
    return next((row for row in rows if is_it(row["head"])), None)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["ms"]:
        return tables.milliseconds(row["ms"]["both"][1])
    return "OOM" if row["note"] == "out of memory" else "no" if row["note"] else ""
