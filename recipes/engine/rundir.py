"""The directory of a run: what is in it, when a new run may begin in it, when one may go on.

recipe.toml         the resolved recipe; runs again from this file
environment.json    versions, device, revision, seed, of every start and resumption
metrics.jsonl       a line per logged step and per evaluation
tensorboard/        the same as events
checkpoints/        step-*.pt, the newest few, and best.pt
summary.json        verdict and results
curves.png, .svg    the training curve
"""

import json
from pathlib import Path
from typing import Any

from fusedface.recipes.base import Recipe
from fusedface.recipes.engine.files import remove_partial, write_text
from fusedface.recipes.settings import differences, read_recipe, to_toml

RECIPE, ENVIRONMENT, SUMMARY = "recipe.toml", "environment.json", "summary.json"


class RunDirectory:
    """A run directory, checked; nothing is written before `create`.

    Args:
        folder: where it is or will be.
        recipe: what is to run.
        resume: whether a run that is already there goes on.

    Raises:
        ValueError: the folder is not empty and `resume` is off; or it holds no run, or one of another
            recipe.
    """

    def __init__(self, folder: Path, recipe: Recipe, resume: bool) -> None:
        self.folder, self.recipe = folder, recipe
        self.checkpoints = folder / "checkpoints"
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; a run needs a folder")
        if folder.is_dir() and any(folder.iterdir()):
            _check_reuse(folder, recipe, resume)

    def create(self) -> None:
        """Make the folder and write the recipe, unless they are there from before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_partial(self.folder)
        if not (self.folder / RECIPE).exists():
            write_text(self.folder / RECIPE, to_toml(self.recipe))

    def add_environment(self, step: int, environment: dict[str, Any]) -> None:
        """Append a start or resumption at `step` to environment.json."""
        path = self.folder / ENVIRONMENT
        starts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        starts.append({"step": step, **environment})
        write_text(path, json.dumps(starts, indent=2) + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json, atomically."""
        write_text(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")

    def read_summary(self) -> dict[str, Any] | None:
        """The summary of a run that has stopped, else None."""
        path = self.folder / SUMMARY
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def resume_command(self) -> str:
        """What to type to go on."""
        return f"python cli.py recipe run {self.folder / RECIPE} --out {self.folder} --resume"


def _check_reuse(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Raise ValueError unless the run in a folder that is not empty may go on with this recipe."""
    if not resume:
        raise ValueError(
            f"{folder} is not empty; add --resume to go on with the run in it, or choose another --out"
        )
    # A run that was killed within its first moments has left nothing but a half-written recipe.
    leftovers = {path.name for path in folder.iterdir()} <= {f"{RECIPE}.partial"}
    if leftovers:
        return
    if not (folder / RECIPE).is_file():
        raise ValueError(f"{folder} holds no run: there is no {RECIPE} in it; choose another --out")
    changed = differences(recipe, read_recipe(folder / RECIPE))
    if changed:
        raise ValueError(
            f"{folder} holds a run of another recipe; to go on with it as it was begun, run "
            f"{folder / RECIPE}. The settings differ in:\n  " + "\n  ".join(changed)
        )
