"""`evaluate`: verify faces with a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fusedface.commands.options import DeviceOption, PairsOption, RootOption


def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(help="Of a run, or a public MobileFaceNet checkpoint.")
    ],
    pairs: PairsOption = None,
    root: RootOption = None,
    data: Annotated[
        Path | None, typer.Option("--data", hidden=True, help="The former name of --root.")
    ] = None,
    all_pairs: Annotated[
        bool,
        typer.Option(
            "--all-pairs",
            help="Take TAR, AUC and rank-1 from all pairs of the images of a list, where a folder is a "
            "person, instead of the listed pairs.",
        ),
    ] = False,
    ijb: Annotated[
        list[Path] | None,
        typer.Option("--ijb", help="A folder of IJB-B or IJB-C: meta and loose_crop; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write results.json, roc.png and roc.svg here.")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Verify faces with a checkpoint: accuracy, TAR@FAR, AUC; with --all-pairs rank-1 too."""
    from fusedface.recipes.evaluation.evaluate_checkpoint import evaluate_checkpoint

    if not checkpoint.exists():
        raise ValueError(f"{checkpoint} does not exist")
    if not pairs and not ijb:
        raise ValueError("nothing to verify on: give --pairs or --ijb")
    if root is not None and data is not None:
        raise ValueError("--data is the former name of --root: give one of them")
    evaluate_checkpoint(
        checkpoint,
        data if root is None else root,
        pairs or [],
        ijb or [],
        out,
        device,
        Console(),
        all_pairs=all_pairs,
    )
