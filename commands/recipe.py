"""`recipe ...`: list, show, run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fusedface.commands.options import (
    DataOption,
    DeviceOption,
    PairsOption,
    RecipeName,
    RootOption,
    SetOption,
)

app = typer.Typer(help="Recipes: list, show, run.", no_args_is_help=True)


@app.command("list")
def recipe_list() -> None:
    """Every recipe, a line each."""
    from fusedface.recipes.registry import RECIPES, get_recipe

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("recipe", style="bold", no_wrap=True)
    table.add_column("what it trains")
    for name in RECIPES:
        table.add_row(name, get_recipe(name).summary)
    Console().print(table)


@app.command("show")
def recipe_show(
    recipe: RecipeName, data: DataOption = None, pairs: PairsOption = None, root: RootOption = None,
    settings: SetOption = None,
) -> None:  # fmt: skip
    """A recipe as TOML, with all its settings; the output is a recipe file."""
    from fusedface.recipes.settings import to_toml

    typer.echo(to_toml(_resolve(recipe, data, pairs, root, settings)), nl=False)


@app.command("run")
def recipe_run(
    recipe: RecipeName,
    data: DataOption = None,
    pairs: PairsOption = None,
    root: RootOption = None,
    settings: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The run directory; without it runs/NAME, numbered."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    device: DeviceOption = None,
) -> None:
    """Train, verify, and leave a run directory with everything in it."""
    from fusedface.recipes.engine.run import run_recipe

    if resume and out is None:
        raise ValueError("--resume needs --out, the run directory to go on with")
    resolved = _resolve(recipe, data, pairs, root, settings)
    folder = out or _free_folder(Path("runs"), resolved.name)
    summary = run_recipe(resolved, folder, resume=resume, device=device)
    raise typer.Exit({"interrupted": 130, "non_finite": 1}.get(summary.verdict, 0))


def _resolve(recipe, data, pairs, root, settings):
    """The recipe that the arguments describe."""
    from fusedface.recipes.registry import get_recipe
    from fusedface.recipes.settings import override, with_data

    resolved = get_recipe(recipe)
    if data is not None or pairs:
        resolved = with_data(resolved, data, pairs or [], root)
    return override(resolved, settings or [])


def _free_folder(parent: Path, name: str) -> Path:
    """parent/name, or the first of parent/name-2, -3, ... that is not there."""
    candidate, number = parent / name, 1
    while candidate.exists():
        number += 1
        candidate = parent / f"{name}-{number}"
    return candidate
