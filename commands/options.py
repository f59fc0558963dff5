"""Arguments that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

InitOption = Annotated[
    Path | None,
    typer.Option(
        "--init",
        help="Begin with the weights of this checkpoint, of a run or a public one; network and images "
        "are as it has them.",
    ),
]
TeacherOption = Annotated[
    Path | None,
    typer.Option(
        "--teacher",
        help="Learn from the embeddings of this network, too: a checkpoint, of a run or a public one, or "
        "an ONNX file.",
    ),
]
RecipeName = Annotated[str, typer.Argument(help="A name from `recipe list`, or a recipe.toml.")]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="A folder with a folder per identity, a RecordIO pack (a folder with train.rec), an LMDB "
        "file, or a list file of 'path label'.",
    ),
]
PairsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--pairs",
        help="A pair list: LFW's pairs.txt, 'path path same fold', CPLFW's and CALFW's, or a .bin; "
        "repeatable.",
    ),
]
ValOption = Annotated[
    str | None,
    typer.Option(
        "--val",
        help="Verification sets such as lfw.bin,cfp_fp.bin,agedb_30.bin, here or in the folder of --data.",
    ),
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out what is broken, and list it.")
]
RootOption = Annotated[
    Path | None, typer.Option("--root", help="The folder that the paths of a pair list start from.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, such as optim.lr=0.05; may be repeated."),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="Such as cpu or cuda:1; without it a GPU if there is one."),
]


def pair_lists(pairs: list[Path] | None, val: str | None, data: str | None) -> list[Path]:
    """The files of --pairs and --val; those of --val may lie in the folder of --data."""
    from fusedface.data import find_sets

    sets = [] if val is None else find_sets(val, None if data is None else Path(data))
    return [*(pairs or []), *sets]
