"""Command lines of this program, from a checkout or as an installed package."""

import os
import shlex
import sys
from pathlib import Path

from fusedface.recipes.host.torchrun import is_shared

ROOT = Path(__file__).resolve().parents[2]
"""The folder of cli.py, in a checkout or in the installed package."""


def is_checkout() -> bool:
    """Whether this code is a checkout with README.md and docs/, not an installed package."""
    return (ROOT / "pyproject.toml").is_file()


def command(*arguments: str | Path) -> str:
    """A command line of this program for a shell, with quotes where arguments need them."""
    return shlex.join([*_program(), *map(str, arguments)])


def install_command(extra: str) -> str:
    """The command that installs the packages of an extra in pyproject.toml."""
    package = "." if is_checkout() else "fusedface"
    editable = ["-e"] if is_checkout() else []
    return shlex.join(["pip", "install", *editable, f"{package}[{extra}]"])


def _program() -> list[str]:
    called = Path(sys.argv[0])
    script = sys.argv[0] if called.name == "cli.py" else "cli.py"
    is_installed = not is_checkout() or called.stem == "fusedface"
    if is_shared():
        return [*_torchrun(), *(["--no-python", "fusedface"] if is_installed else [script])]
    return ["fusedface"] if is_installed else ["python", script]


def _torchrun() -> list[str]:
    """The start of the command that has begun this process and its peers."""
    machines = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    more = ["--nnodes", str(machines)] if machines > 1 else []
    each = os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])
    return ["torchrun", *more, "--nproc-per-node", each]
