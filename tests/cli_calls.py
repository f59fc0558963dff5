"""Calls of the command line."""

import sys

import pytest
from typer.testing import CliRunner

from fusedface import cli


def invoke(*arguments, code=0):
    """What a command prints; it must end with this status."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def mistake(capsys, monkeypatch, *arguments):
    """What `main` prints for a mistake; it must end with status 2."""
    monkeypatch.setattr(sys, "argv", ["cli.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert "Traceback" not in captured.out + captured.err
    return captured.err


def one_line(text):
    """A text without the line ends that a terminal's width decides."""
    return " ".join(text.split())
