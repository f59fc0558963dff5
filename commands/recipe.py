"""`recipe ...`: list, show, run, judge; compare, study and map are in compare.py."""

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
    pair_lists,
)
from fusedface.recipes.host.terminal import Table, say

app = typer.Typer(
    help="Recipes: list, show, run, judge, compare, study, map.", no_args_is_help=True
)


@app.command("list")
def recipe_list() -> None:
    """List all recipes, one line each."""
    from fusedface.recipes.summaries import lines

    table = Table("", ["recipe", "what it trains"])
    table.add_rows(lines())
    Console().print(table)


@app.command("show")
def recipe_show(
    recipe: RecipeName, data: DataOption = None, init: InitOption = None, pairs: PairsOption = None,
    root: RootOption = None, settings: SetOption = None, teacher: TeacherOption = None,
) -> None:  # fmt: skip
    """Print a recipe as TOML with all its settings; the output is a recipe file."""
    from fusedface.recipes.configuration.own_files import OwnFiles
    from fusedface.recipes.configuration.settings import to_toml
    from fusedface.recipes.registry import chosen_recipe

    files = OwnFiles(data, pairs or (), root, init, teacher)
    typer.echo(to_toml(chosen_recipe(recipe, files, settings or ())), nl=False)


RunOutOption = Annotated[
    Path | None,
    typer.Option("--out", help="The run directory; without it runs/NAME, numbered."),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
AllowChangeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-change",
        help="With --resume: a setting that may differ from the run's own, such as optim.lr; the run "
        "records the change. May be repeated.",
    ),
]


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
    out: RunOutOption = None,
    resume: ResumeOption = False,
    allow_change: AllowChangeOption = None,
    device: DeviceOption = None,
) -> None:
    """Train and verify a recipe, and write everything to a run directory."""
    from fusedface.recipes.configuration.own_files import OwnFiles
    from fusedface.recipes.host.torchrun import is_shared
    from fusedface.recipes.registry import chosen_recipe
    from fusedface.recipes.run import run_recipe
    from fusedface.recipes.run_directory.directory import run_folder

    _check_run(is_shared(), out, resume, allow_change)
    if skip_bad:
        settings = ["data.skip_bad=true", *(settings or [])]
    files = OwnFiles(data, pair_lists(pairs, val, data), root, init, teacher)
    chosen = chosen_recipe(recipe, files, settings or ())
    with run_folder(out, chosen.name) as folder:
        summary = run_recipe(
            chosen, folder, resume=resume, allow_change=allow_change or (), device=device
        )
    raise typer.Exit({"interrupted": 130, "non_finite": 1}.get(summary.verdict, 0))


def _check_run(
    shared: bool, out: Path | None, resume: bool, allow_change: list[str] | None
) -> None:
    """Raise ValueError for options that do not go together."""
    if shared and out is None:
        raise ValueError(
            "under torchrun a run needs --out, one run directory for all its processes"
        )
    if resume and out is None:
        raise ValueError("--resume needs --out, the run directory to go on with")
    if allow_change and not resume:
        raise ValueError("--allow-change needs --resume: a new run is as its recipe says")


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
