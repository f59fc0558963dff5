"""Arguments and output that several benchmarks share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    import torch

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
    float, typer.Option(help="Of timing a case, after which no round begins.")
]
MinutesOption = Annotated[
    float, typer.Option(help="After which no case begins; run again with --resume.")
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
