"""`export`: write a trained network for other software."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fusedface.commands.options import PairsOption, RootOption

SourceArgument = Annotated[
    Path, typer.Argument(help="A run directory, or a checkpoint: ours or a public one.")
]
FormatOption = Annotated[
    list[str],
    typer.Option(
        "--format", help="onnx, onnx-int8, safetensors, pt2, executorch or litert; may be repeated."
    ),
]
OutOption = Annotated[
    Path, typer.Option("--out", help="The folder for the files and their model cards.")
]
CalibrationOption = Annotated[
    str | None,
    typer.Option("--data", help="Faces to calibrate onnx-int8 with; without it generated ones."),
]
GreyLevelsOption = Annotated[
    bool,
    typer.Option(
        "--grey-levels",
        help="Write files that take grey levels 0..255 and normalise them, as cv2.FaceRecognizerSF "
        "needs.",
    ),
]
KeepFloatOption = Annotated[
    list[str] | None,
    typer.Option(
        "--keep-float",
        help="A layer or block that onnx-int8 leaves float32, such as blocks.0; may be repeated. "
        "The table of an export names them, with what 8 bits cost in each.",
    ),
]


def export(
    source: SourceArgument,
    formats: FormatOption = ["onnx"],  # noqa: B006  typer copies it
    out: OutOption = Path("export"),
    data: CalibrationOption = None,
    pairs: PairsOption = None,
    root: RootOption = None,
    grey_levels: GreyLevelsOption = False,
    keep_float: KeepFloatOption = None,
) -> None:
    """Write a network for other software, check it against PyTorch, and add a model card."""
    from fusedface.recipes.export.export import export as run_export

    run_export(
        source,
        formats,
        out,
        data=data,
        pair_lists=pairs or [],
        root=root,
        grey_levels=grey_levels,
        keep_float=keep_float or (),
        console=Console(),
    )
