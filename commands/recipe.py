"""`recipe ...`: list, show, run, judge, compare, map."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fusedface.commands.options import (
    DataOption,
    DeviceOption,
    InitOption,
    PairsOption,
    RecipeName,
    RootOption,
    SetOption,
    SkipBadOption,
    TeacherOption,
    ValOption,
)
from fusedface.recipes.host.terminal import Table, say

app = typer.Typer(help="Recipes: list, show, run, judge, compare, map.", no_args_is_help=True)


@app.command("list")
def recipe_list() -> None:
    """List all recipes, one line each."""
    from fusedface.recipes.summaries import lines

    table = Table("", ["recipe", "what it trains"])
    for line in lines():
        table.add_row(*line)
    Console().print(table)


@app.command("show")
def recipe_show(
    recipe: RecipeName, data: DataOption = None, init: InitOption = None, pairs: PairsOption = None,
    root: RootOption = None, settings: SetOption = None, teacher: TeacherOption = None,
) -> None:  # fmt: skip
    """Print a recipe as TOML with all its settings; the output is a recipe file."""
    from fusedface.recipes.configuration.settings import to_toml
    from fusedface.recipes.registry import chosen_recipe

    chosen = chosen_recipe(
        recipe, data=data, pairs=pairs or (), root=root, init=init, teacher=teacher, settings=settings or ()
    )  # fmt: skip
    typer.echo(to_toml(chosen), nl=False)


@app.command("run")
def recipe_run(
    recipe: RecipeName,
    data: DataOption = None,
    init: InitOption = None,
    teacher: TeacherOption = None,
    val: ValOption = None,
    pairs: PairsOption = None,
    root: RootOption = None,
    skip_bad: SkipBadOption = False,
    settings: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The run directory; without it runs/NAME, numbered."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    allow_change: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-change",
            help="With --resume: a setting that may differ from the run's own, such as optim.lr; the run "
            "records the change. May be repeated.",
        ),
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Train and verify a recipe, and write everything to a run directory."""
    from fusedface.recipes.host.torchrun import is_shared
    from fusedface.recipes.registry import chosen_recipe
    from fusedface.recipes.run import run_recipe
    from fusedface.recipes.run_directory.directory import run_folder

    if is_shared() and out is None:
        raise ValueError(
            "under torchrun a run needs --out, one run directory for all its processes"
        )
    if resume and out is None:
        raise ValueError("--resume needs --out, the run directory to go on with")
    if allow_change and not resume:
        raise ValueError("--allow-change needs --resume: a new run is as its recipe says")
    if skip_bad:
        settings = ["data.skip_bad=true", *(settings or [])]
    lists = [*(pairs or []), *_val_sets(val, data)]
    chosen = chosen_recipe(
        recipe, data=data, pairs=lists, root=root, init=init, teacher=teacher, settings=settings or ()
    )  # fmt: skip
    with run_folder(out, chosen.name) as folder:
        summary = run_recipe(
            chosen, folder, resume=resume, allow_change=allow_change or (), device=device
        )
    raise typer.Exit({"interrupted": 130, "non_finite": 1}.get(summary.verdict, 0))


@app.command("judge")
def recipe_judge(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories, or folders of runs such as a comparison.")
    ],
) -> None:
    """Show the saved verdict of finished runs and the verdict by the current rules; nothing is changed."""
    from fusedface.recipes.run_directory.rejudge import find_runs, judgement_table, rejudge

    console, judged = Console(), []
    for folder in find_runs(runs):
        try:
            judged.append(rejudge(folder))
        except ValueError as error:  # the others can be judged
            say(console, f"{folder} is not judged: {error}")
    if not judged:
        raise typer.Exit(2)
    console.print(judgement_table(judged))


@app.command("compare")
def recipe_compare(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(help="Recipes that differ only in the loss; without any the paper's set."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each loss.")] = 3,
    margins: Annotated[
        str | None, typer.Option(help="A sweep over one parameter, such as m=0.3,0.4,0.5.")
    ] = None,
    cures: Annotated[
        bool, typer.Option("--cures", help="Train each loss also with each cure of sinking.")
    ] = False,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study",
            help="A file of finished runs: those in it are not repeated, new ones are added to it.",
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no further run after so long.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="small (two CPU cores), short (the study of the cures), casia (a GPU) or recipe (as the "
            "recipes are); small without --data, recipe with it."
        ),
    ] = None,
    data: DataOption = None,
    init: InitOption = None,
    teacher: TeacherOption = None,
    val: ValOption = None,
    pairs: PairsOption = None,
    root: RootOption = None,
    settings: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Goes on with what is there; without it runs/compare, numbered."
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs at once; without it what the machine carries.")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Train several losses alike, judge every run, and report with statistics and plots."""
    from fusedface.recipes.compare.compare import compare
    from fusedface.recipes.compare.protocols import PAPER_SET, get_protocol, with_settings
    from fusedface.recipes.compare.results import FAILED
    from fusedface.recipes.host.device import pick_device
    from fusedface.recipes.registry import chosen_recipe
    from fusedface.recipes.run import run_recipe

    changes = [*get_protocol(protocol or ("recipe" if data else "small")), *(settings or [])]
    lists = [*(pairs or []), *_val_sets(val, data)]
    chosen = [
        chosen_recipe(name, data=data, pairs=lists, root=root, init=init, teacher=teacher)
        for name in recipes or PAPER_SET
    ]
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


@app.command("map")
def recipe_map(
    predictions: Annotated[
        Path, typer.Option("--predictions", help="The file of predictions.")
    ] = Path("docs/comparisons/predictions.json"),
    predict: Annotated[
        bool, typer.Option("--predict", help="Write that file, and train nothing.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Goes on with what is there.")] = Path(
        "runs/map"
    ),
    minutes: Annotated[
        float | None, typer.Option(help="Begin no further run after so long.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Runs at once.")] = 1,
    device: DeviceOption = None,
) -> None:
    """Map which settings sink: predict, train, and count the correct predictions."""
    from fusedface.recipes.compare.map_settings import SETTINGS
    from fusedface.recipes.compare.predictions import predict as foretell
    from fusedface.recipes.compare.predictions import write_predictions
    from fusedface.recipes.compare.sinking_map import run_map
    from fusedface.recipes.host.device import pick_device
    from fusedface.recipes.host.torchrun import is_shared

    if is_shared():
        raise ValueError(
            "recipe map starts a process for each run itself: start it without torchrun"
        )
    if predict:
        if predictions.exists():
            raise ValueError(f"{predictions} exists; predictions are written once")
        write_predictions([foretell(setting) for setting in SETTINGS], predictions)
        say(Console(), f"wrote {predictions}")
        return
    found = run_map(
        out, predictions, jobs=jobs, minutes=minutes, device=pick_device(device), console=Console()
    )
    raise typer.Exit(130 if found is None else 0)


def _val_sets(names: str | None, data: str | None) -> list[Path]:
    """The files of --val."""
    from fusedface.data import find_sets

    return [] if names is None else find_sets(names, None if data is None else Path(data))
