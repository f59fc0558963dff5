"""`data ...`: look at a source."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Faces: look at a source.", no_args_is_help=True)


@app.command("preview")
def data_preview(
    source: Annotated[
        str, typer.Argument(help="'synthetic', a folder, or a list file.")
    ] = "synthetic",
    out: Annotated[Path, typer.Option("--out", help="The picture to write.")] = Path("preview.png"),
    identities: Annotated[int, typer.Option(help="Rows.")] = 8,
    images: Annotated[int, typer.Option(help="Columns.")] = 8,
    difficulty: Annotated[float, typer.Option(help="Of the synthetic source, 0 to 1.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the synthetic source.")] = 0,
) -> None:
    """Write a contact sheet, a row an identity."""
    from fusedface.data import SyntheticFaces, contact_sheet, open_source

    if source == "synthetic":
        faces = SyntheticFaces(identities, images, difficulty=difficulty, seed=seed)
    else:
        faces = open_source(source)
    contact_sheet(faces, out, num_identities=identities, images_per_identity=images)
    typer.echo(f"wrote {out}: {faces.num_classes} identities, {len(faces)} images in the source")
