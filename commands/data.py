"""`data ...`: preview, check, align and pack faces."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from fusedface.commands.options import RootOption, SkipBadOption
from fusedface.recipes.host.terminal import Table, say

if TYPE_CHECKING:
    from fusedface.data.check import Report

app = typer.Typer(help="Faces: look at them, check, align and pack them.", no_args_is_help=True)
SHOWN_SKIPPED = 10

SourceArgument = Annotated[
    str,
    typer.Argument(
        help="A folder with a folder per identity, a pack, an LMDB file, or a list file."
    ),
]


@app.command("preview")
def data_preview(
    source: Annotated[
        str, typer.Argument(help="'synthetic', a folder, a pack, an LMDB file, or a list file.")
    ] = "synthetic",
    out: Annotated[Path, typer.Option("--out", help="The picture to write.")] = Path("preview.png"),
    identities: Annotated[int, typer.Option(help="Rows.")] = 8,
    images: Annotated[int, typer.Option(help="Columns.")] = 8,
    difficulty: Annotated[float, typer.Option(help="Of the synthetic source, 0 to 1.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the synthetic source.")] = 0,
) -> None:
    """Write a contact sheet of a source of faces, one row per person."""
    from fusedface.data import SyntheticFaces, contact_sheet, open_source
    from fusedface.data.contact_sheet import check_sheet

    check_sheet(identities, images)  # before faces are generated
    if source == "synthetic":
        faces = SyntheticFaces(identities, images, difficulty=difficulty, seed=seed)
    else:
        faces = open_source(source)
    contact_sheet(faces, out, num_identities=identities, images_per_identity=images)
    say(
        Console(), f"wrote {out}: {faces.num_classes} identities, {len(faces)} images in the source"
    )


@app.command("check")
def data_check(
    path: Annotated[
        Path,
        typer.Argument(
            help="A pack, an LMDB file, a folder, a list file, a pair list ('pairs' is in its name), "
            "or a .bin."
        ),
    ],
    root: RootOption = None,
) -> None:
    """Read every image of a source of faces, and report its content and its faults.

    The exit status is 1 if there are faults.
    """
    from fusedface.data.check import check

    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading images", total=None)
        report = check(
            path, root, lambda done, total: bar.update(task, completed=done, total=total)
        )
    _print_report(report, path.name, console)
    raise typer.Exit(1 if report.problems else 0)


def _print_report(report: "Report", name: str, console: Console) -> None:
    """Print the facts on a source as a table, then its faults."""
    table = Table("", [report.kind, name])
    table.add_rows(report.facts)
    console.print(table)
    for problem in report.problems:
        say(console, problem, "red")


@app.command("pack")
def data_pack(
    source: SourceArgument,
    out: Annotated[Path, typer.Argument(help="The folder to write train.rec and train.idx to.")],
    skip_bad: SkipBadOption = False,
) -> None:
    """Write faces as a RecordIO pack; encoded images are copied byte for byte."""
    from fusedface.data import open_source, write_pack

    faces = open_source(source, skip_bad=skip_bad)
    for note in faces.notes:
        say(Console(), note)
    written = write_pack(faces, out, skip_bad=skip_bad)
    _list_skipped(written.skipped)
    height, width = written.image_size
    say(
        Console(),
        f"wrote {out}: {written.num_images:,} images, {height}x{width}, of {written.num_classes:,} people",
    )


@app.command("make-bin")
def data_make_bin(
    root: Annotated[Path, typer.Argument(help="The folder that the paths of PAIRS start from.")],
    pairs: Annotated[Path, typer.Argument(help="A pair list.")],
    out: Annotated[Path, typer.Argument(help="The .bin file to write.")],
) -> None:
    """Write a pair list and its images as a verification set, such as lfw.bin."""
    from fusedface.data import read_pairs, write_bin

    chosen = read_pairs(pairs, root)
    keeps_folds = write_bin(chosen, out)
    say(Console(), f"wrote {out}: {len(chosen):,} pairs of {len(chosen.images):,} images")
    if not keeps_folds:
        say(
            Console(),
            f"the folds of {pairs.name} are lost: a .bin has ten, of neighbouring pairs, in equal parts",
        )


@app.command("align")
def data_align(
    root: Annotated[Path, typer.Argument(help="The folder of the photos.")],
    landmarks: Annotated[
        Path,
        typer.Argument(
            help="A CSV of path,x1,y1,...,x5,y5: left eye, right eye, nose, corners of the mouth."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write the crops to.")],
    size: Annotated[int, typer.Option(help="Of the crops: a multiple of 112 or 128.")] = 112,
    skip_bad: SkipBadOption = False,
) -> None:
    """Crop faces by five landmarks, as recognition networks expect them; a detector is not included."""
    from fusedface.data.align import align_folder, read_landmarks

    written = align_folder(root, read_landmarks(landmarks, root), out, size, skip_bad=skip_bad)
    _list_skipped(written.skipped)
    say(Console(), f"wrote {out}: {written.num_images:,} crops of {size}x{size}")


def _list_skipped(skipped: Sequence[Exception]) -> None:
    """Print how many images were left out, and the first reasons."""
    if skipped:
        say(Console(), f"left out {len(skipped):,}:")
    for error in skipped[:SHOWN_SKIPPED]:
        say(Console(), f"  {error}")
    if len(skipped) > SHOWN_SKIPPED:
        say(Console(), f"  and {len(skipped) - SHOWN_SKIPPED:,} more")
