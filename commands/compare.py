"""`recipe compare`, `recipe study` and `recipe map`: many runs, and the report on them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fusedface.commands.options import (
    DataOption,
    DeviceOption,
    InitOption,
    PairsOption,
    RootOption,
    SetOption,
    TeacherOption,
    ValOption,
    pair_lists,
)
from fusedface.recipes.host.terminal import say

RecipesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Recipes that differ only in the loss; without any the paper's set."),
]
SeedsOption = Annotated[int, typer.Option(help="Runs of each loss.")]
MarginsOption = Annotated[
    str | None, typer.Option(help="A sweep over one parameter, such as m=0.3,0.4,0.5.")
]
CuresOption = Annotated[
    bool, typer.Option("--cures", help="Train each loss also with each cure of sinking.")
]
StudyOption = Annotated[
    Path | None,
    typer.Option(
        "--study",
        help="A file of finished runs: those in it are not repeated, new ones are added to it.",
    ),
]
MinutesOption = Annotated[
    float | None, typer.Option(min=0.0, help="Begin no further run after so long.")
]
ProtocolOption = Annotated[
    str | None,
    typer.Option(
        help="small (two CPU cores), short (the study of the cures), casia (a GPU) or recipe (as the "
        "recipes are); small without --data, recipe with it."
    ),
]
CompareOutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Goes on with what is there; without it runs/compare, numbered."),
]
JobsOption = Annotated[
    int | None, typer.Option(help="Runs at once; without it what the machine carries.")
]


def compare_recipes(
    recipes: RecipesArgument = None,
    seeds: SeedsOption = 3,
    margins: MarginsOption = None,
    cures: CuresOption = False,
    study: StudyOption = None,
    minutes: MinutesOption = None,
    protocol: ProtocolOption = None,
    data: DataOption = None,
    init: InitOption = None,
    teacher: TeacherOption = None,
    val: ValOption = None,
    pairs: PairsOption = None,
    root: RootOption = None,
    settings: SetOption = None,
    out: CompareOutOption = None,
    jobs: JobsOption = None,
    device: DeviceOption = None,
) -> None:
    """Train several losses alike, judge every run, and report with statistics and plots."""
    from fusedface.recipes.compare.compare import compare
    from fusedface.recipes.compare.protocols import PAPER_SET, get_protocol, with_settings
    from fusedface.recipes.compare.results import FAILED
    from fusedface.recipes.configuration.own_files import OwnFiles
    from fusedface.recipes.host.device import pick_device
    from fusedface.recipes.registry import chosen_recipe
    from fusedface.recipes.run import run_recipe

    changes = [*get_protocol(protocol or ("recipe" if data else "small")), *(settings or [])]
    files = OwnFiles(data, pair_lists(pairs, val, data), root, init, teacher)
    chosen = [chosen_recipe(name, files) for name in recipes or PAPER_SET]
    losses = compare(
        with_settings(chosen, changes),
        out,
        num_seeds=seeds,
        margins=margins,
        cures=cures,
        study=study,
        minutes=minutes,
        jobs=jobs,
        device=pick_device(device),
        console=Console(),
        run_recipe=run_recipe,
    )
    if losses is None:
        raise typer.Exit(130)
    raise typer.Exit(1 if any(FAILED in loss.verdicts for loss in losses) else 0)


def study_figures(
    file: Annotated[Path, typer.Argument(help="A file that --study has written.")],
    reference: Annotated[
        str, typer.Option(help="The loss, or the loss and ' + ' and its cure, that is compared.")
    ] = "mobilefacenet-curricular",
    against: Annotated[
        list[str] | None,
        typer.Option(help="A loss whose variants it is compared with; may be repeated."),
    ] = None,
) -> None:
    """Print what the finished runs of a study say: means, and families of paired tests."""
    from fusedface.recipes.compare.study_figures import print_study

    if not file.exists():
        raise ValueError(f"{file} does not exist")
    print_study(file, reference, against or (), Console())


PredictionsOption = Annotated[Path, typer.Option("--predictions", help="The file of predictions.")]
PredictOption = Annotated[
    bool, typer.Option("--predict", help="Write that file, and train nothing.")
]
BorderOption = Annotated[
    bool, typer.Option("--border", help="With --predict: only more runs near the border.")
]
MapOutOption = Annotated[Path, typer.Option("--out", help="Goes on with what is there.")]


def map_sinking(
    predictions: PredictionsOption = Path("docs/comparisons/predictions.json"),
    predict: PredictOption = False,
    border: BorderOption = False,
    out: MapOutOption = Path("runs/map"),
    minutes: MinutesOption = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once.")] = 1,
    device: DeviceOption = None,
) -> None:
    """Map which settings sink: predict, train, and count the correct predictions."""
    from fusedface.recipes.compare.sinking_map import run_map
    from fusedface.recipes.host.device import pick_device
    from fusedface.recipes.host.torchrun import is_shared

    if is_shared():
        raise ValueError(
            "recipe map starts a process for each run itself: start it without torchrun"
        )
    if border and not predict:
        raise ValueError("--border needs --predict; runs are those of the file of predictions")
    if predict:
        _write_predictions(predictions, border)
        return
    found = run_map(
        out, predictions, jobs=jobs, minutes=minutes, device=pick_device(device), console=Console()
    )
    raise typer.Exit(130 if found is None else 0)


def _write_predictions(path: Path, border: bool) -> None:
    """Predict every setting of the map, or those near the border; a file of predictions is written once."""
    from fusedface.recipes.compare.map_settings import BORDER, SETTINGS
    from fusedface.recipes.compare.predictions import predict, write_predictions

    if path.exists():
        raise ValueError(f"{path} exists; predictions are written once")
    write_predictions([predict(setting) for setting in (BORDER if border else SETTINGS)], path)
    say(Console(), f"wrote {path}")
