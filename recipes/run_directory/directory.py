"""The directory of a run: what is in it, when a new run may begin in it, when one may go on.

recipe.toml         the resolved recipe; runs again from this file
environment.json    versions, device, revision, seed, of every start and resumption
metrics.jsonl       a line per logged step and per evaluation
tensorboard/        the same as events
checkpoints/        step-*.pt, the newest few, and best.pt
summary.json        verdict and results
curves.png, .svg    the training curve
run.lock            while a process runs in it: which one
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.configuration.settings import changed_settings, read_recipe, to_toml
from fusedface.recipes.host.program import command
from fusedface.recipes.run_directory.files import TEMPORARY, read_json, remove_partial, write_text
from fusedface.recipes.run_directory.lock import LOCK, FolderLock
from fusedface.recipes.run_directory.summary import SUMMARY, Summary, read_summary

RECIPE, ENVIRONMENT = "recipe.toml", "environment.json"


class RunDirectory:
    """A run directory, checked; nothing is written before `claim`.

    Args:
        folder: where it is or will be.
        recipe: what is to run.
        resume: whether a run that is already there goes on.
        allow_change: settings, or groups of them, that may differ from those it was begun with.
        device: as the user named it, for `resume_command`.

    Raises:
        ValueError: the folder is not empty and `resume` is off; or it holds no run, or one of another
            recipe.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        resume: bool,
        allow_change: Collection[str] = (),
        device: str | None = None,
    ) -> None:
        self.folder, self.recipe, self.resume = folder, recipe, resume
        self.allow_change, self.device = allow_change, device
        self.checkpoints = folder / "checkpoints"
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; a run needs a folder")
        self.changes = self._check_reuse()
        """How the recipe differs from the one in the folder, all of it allowed."""

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Have the folder for this process while the block runs.

        Raises:
            ValueError: another process has it, or has used it since it was checked.
        """
        with FolderLock(self.folder):
            self.changes = self._check_reuse()
            remove_partial(self.folder)
            yield

    def write_recipe(self) -> None:
        """Write the recipe, unless it is there from before and has not changed."""
        if self.changes or not (self.folder / RECIPE).exists():
            write_text(self.folder / RECIPE, to_toml(self.recipe))

    def check_recipe(self, other: Recipe, where: Path) -> list[str]:
        """How the recipe differs from the one that `where` was written under.

        Raises:
            ValueError: in a setting that may not change; each such setting is named with both values.
        """
        changed = changed_settings(self.recipe, other)
        refused = [line for key, line in changed.items() if not self.may_change(key)]
        if refused:
            allowed = " ".join(f"--allow-change {key}" for key in changed)
            raise ValueError(
                f"{where} is of another recipe. The settings differ in:\n  "
                + "\n  ".join(refused)
                + f"\nGo on with those that it was begun with, or accept the change with {allowed}: the "
                "run then records it, with the step"
            )
        return list(changed.values())

    def read_starts(self) -> list[Any]:
        """What environment.json holds: each start and resumption.

        Raises:
            ValueError: it is damaged; the file is named.
        """
        path = self.folder / ENVIRONMENT
        starts = read_json(path) if path.exists() else []
        if not isinstance(starts, list):
            raise ValueError(  # noqa: TRY004  the file is bad, not the argument's type
                f"{path} is damaged: it must hold a list of starts; restore it or remove it"
            )
        return starts

    def add_start(self, step: int, start: dict[str, Any]) -> None:
        """Append a start or resumption at `step` to environment.json."""
        starts = [*self.read_starts(), {"step": step, **start}]
        write_text(self.folder / ENVIRONMENT, json.dumps(starts, indent=2) + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json, atomically."""
        write_text(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")

    def read_summary(self) -> Summary | None:
        """The summary of a run that has stopped, else None.

        Raises:
            ValueError: it is damaged.
        """
        path = self.folder / SUMMARY
        return read_summary(path) if path.exists() else None

    def resume_command(self) -> str:
        """What to type to go on."""
        device = ["--device", self.device] if self.device else []
        recipe, out = self.folder / RECIPE, self.folder
        return command("recipe", "run", recipe, "--out", out, "--resume", *device)

    def may_change(self, key: str) -> bool:
        """Whether a setting may differ from the one the run was begun with."""
        return any(key == name or key.startswith(f"{name}.") for name in self.allow_change)

    def _check_reuse(self) -> list[str]:
        """See `changes`; raise ValueError unless the run in a folder that is not empty may go on."""
        folder = self.folder
        found = {path.name for path in folder.iterdir()} - {LOCK} if folder.is_dir() else set()
        if found and not self.resume:
            raise ValueError(
                f"{folder} is not empty; add --resume to go on with the run in it, or choose another --out"
            )
        # A run that was killed within its first moments has left nothing but a half-written recipe.
        if found <= {RECIPE + TEMPORARY}:
            return []
        if not (folder / RECIPE).is_file():
            raise ValueError(
                f"{folder} holds no run: there is no {RECIPE} in it; choose another --out"
            )
        return self.check_recipe(read_recipe(folder / RECIPE), folder / RECIPE)
