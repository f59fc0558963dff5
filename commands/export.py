"""`export`: write a trained network for other software."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fusedface.commands.options import PairsOption, RootOption


def export(
    source: Annotated[
        Path, typer.Argument(help="A run directory, or a checkpoint: ours or a public one.")
    ],
    formats: Annotated[
        list[str],
        typer.Option(
            "--format",
            help="onnx, onnx-int8, safetensors, pt2, executorch or litert; may be repeated.",
        ),
    ] = ["onnx"],  # noqa: B006  typer copies it
    out: Annotated[
        Path, typer.Option("--out", help="The folder for the files and their model cards.")
    ] = Path("export"),
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Faces to calibrate onnx-int8 with; without it generated ones."
        ),
    ] = None,
    pairs: PairsOption = None,
    root: RootOption = None,
    grey_levels: Annotated[
        bool,
        typer.Option(
            "--grey-levels",
            help="Write files that take grey levels 0..255 and normalise them, as cv2.FaceRecognizerSF "
            "needs.",
        ),
    ] = False,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-float",
            help="A layer or block that onnx-int8 leaves float32, such as blocks.0; may be repeated. "
            "The table of an export names them, with what 8 bits cost in each.",
        ),
    ] = None,
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
