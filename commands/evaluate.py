"""`evaluate`: verify faces with a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fusedface.commands.options import DeviceOption


def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(help="Of a run, or a public MobileFaceNet checkpoint.")
    ],
    pairs: Annotated[
        list[Path] | None, typer.Option("--pairs", help="A pair list or a .bin; may be repeated.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="The folder the paths of --pairs start from; without it that of each list.",
        ),
    ] = None,
    ijb: Annotated[
        list[Path] | None,
        typer.Option("--ijb", help="A folder of IJB-B or IJB-C: meta and loose_crop; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write results.json, roc.png and roc.svg here.")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Verify faces with a checkpoint: accuracy, TAR@FAR, AUC, rank-1."""
    from fusedface.recipes.engine.evaluate_checkpoint import evaluate_checkpoint

    if not pairs and not ijb:
        raise ValueError("nothing to verify on: give --pairs or --ijb")
    evaluate_checkpoint(checkpoint, data, pairs or [], ijb or [], out, device, Console())
