"""Arguments and output that several benchmarks share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fusedface.recipes.host.terminal import working

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    Rows = list[dict[str, Any]]

OutOption = Annotated[
    Path | None, typer.Option("--out", help="Write everything as JSON here, after each case.")
]
RoundsOption = Annotated[int, typer.Option(min=0, help="Timed runs of each, in turn; at most.")]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", help="Part of the names of the competitors to run; may be repeated."),
]
SkipOption = Annotated[
    list[str] | None,
    typer.Option("--skip", help="Part of the names of competitors not to run; may be repeated."),
]
SecondsOption = Annotated[
    float, typer.Option(help="Time limit of a case in seconds; no round begins after it.")
]
MinutesOption = Annotated[
    float, typer.Option(help="Time limit in minutes; no case begins after it. --resume goes on.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Keep the cases in --out, measure the others.")
]


def wide_console() -> Console:
    """A console as wide as the terminal; output to a file is as wide as the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def save_rows(
    out: Path | None, benchmark: str, device: "torch.device", rows: list[dict[str, Any]]
) -> None:
    """Write the rows of a benchmark to --out, if it is given."""
    from fusedface.bench import results

    if out is not None:
        results.write_json(out, results.document(benchmark, device, rows))


def measured(
    benchmark: str,
    run: "Callable[[torch.device, Callable[[str], None]], Rows]",
    show: "Callable[[Rows, Console], None]",
    out: Path | None,
    device: str | None,
) -> None:
    """Run a benchmark, write its rows to --out, and print them.

    Args:
        benchmark: its name in the file.
        run: measures on a device, and says what it does.
        show: prints the rows.
        out: the file, if any.
        device: as on the command line.
    """
    from fusedface.recipes.host.device import pick_device

    target, console = pick_device(device), wide_console()
    with working(console, "measuring") as note:
        rows = run(target, note)
    save_rows(out, benchmark, target, rows)
    show(rows, console)
