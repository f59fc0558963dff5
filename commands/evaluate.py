"""`evaluate`: verify faces with a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fusedface.commands.options import DeviceOption, PairsOption, RootOption

CheckpointArgument = Annotated[
    Path, typer.Argument(help="A checkpoint, of a run or a public one, or an ONNX file.")
]
FormerRootOption = Annotated[
    Path | None, typer.Option("--data", hidden=True, help="The former name of --root.")
]
AllPairsOption = Annotated[
    bool,
    typer.Option(
        "--all-pairs",
        help="Take TAR, AUC and rank-1 from all pairs of the images of a list, where a folder is a "
        "person, instead of the listed pairs.",
    ),
]
IjbOption = Annotated[
    list[Path] | None,
    typer.Option("--ijb", help="A folder of IJB-B or IJB-C: meta and loose_crop; repeatable."),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Write results.json, thresholds.json, plots, scores as CSV and a picture of the worst "
        "mistakes here.",
    ),
]
ThresholdsOption = Annotated[
    Path | None,
    typer.Option(
        "--thresholds",
        help="A thresholds.json of this network on other data: try its thresholds on these.",
    ),
]


def evaluate(
    checkpoint: CheckpointArgument,
    pairs: PairsOption = None,
    root: RootOption = None,
    data: FormerRootOption = None,
    all_pairs: AllPairsOption = False,
    ijb: IjbOption = None,
    out: OutOption = None,
    fixed: ThresholdsOption = None,
    device: DeviceOption = None,
) -> None:
    """Verify and identify faces: accuracy, thresholds with intervals, and the probability of a cosine.

    The faces come from pair lists or IJB sets. With --root and no list, pairs are drawn from that folder,
    which has one folder per person.
    """
    from fusedface.recipes.evaluation.evaluate_checkpoint import evaluate_checkpoint

    if not checkpoint.exists():
        raise ValueError(f"{checkpoint} does not exist")
    if not pairs and not ijb and root is None and data is None:
        raise ValueError(
            "nothing to verify on: give --pairs, --ijb, or with --root a folder with a folder per person"
        )
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
        fixed=fixed,
    )
