"""When a run may use a directory, and how it resumes from the files there."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fusedface.data import changed_images
from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.configuration.settings import changed_settings, from_dict, read_recipe
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.host.terminal import say
from fusedface.recipes.run_directory.directory import RECIPE, RunDirectory
from fusedface.recipes.run_directory.files import TEMPORARY
from fusedface.recipes.run_directory.summary import Summary
from fusedface.recipes.training.checkpoint import Checkpoint
from fusedface.recipes.training.checkpoint_folder import CheckpointFolder
from fusedface.recipes.training.display import Display


@dataclass(frozen=True)
class Reuse:
    """The conditions under which a run may use a directory that is not empty.

    Args:
        directory: the run directory.
        recipe: the recipe of the run that wants to use it.
        resume: whether a run that is already there goes on.
        allow_change: settings, or groups of them, that may differ from those at the start of the run.
    """

    directory: RunDirectory
    recipe: Recipe
    resume: bool = False
    allow_change: Collection[str] = ()

    def check(self) -> list[str]:
        """The allowed differences between the recipe and the one in the directory, one line each.

        Raises:
            ValueError: the folder is not empty and `resume` is off; or it holds no run, or one of another
                recipe.
        """
        folder, found = self.directory.folder, self.directory.found()
        if found and not self.resume:
            raise ValueError(
                f"{folder} is not empty; add --resume to go on with the run in it, or choose another --out"
            )
        # A run that was killed in its first moments leaves only a half-written recipe.
        if found <= {RECIPE + TEMPORARY}:
            return []
        path = self.directory.recipe
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no run: there is no {RECIPE} in it; choose another --out"
            )
        return self.changes(read_recipe(path), path)

    def changes(self, other: Recipe, where: Path) -> list[str]:
        """The allowed differences between the recipe and that of the file `where`, one line each.

        Raises:
            ValueError: a setting differs that may not change; the message gives each with both values.
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

    def changes_since(self, checkpoint: Checkpoint) -> list[str]:
        """`changes` against the recipe in a checkpoint."""
        values = checkpoint.recipe()
        try:
            other = from_dict(values)
        except ValueError as error:
            raise checkpoint.unusable(f"its recipe cannot be read: {error}") from None
        return self.changes(other, checkpoint.path)

    def may_change(self, key: str) -> bool:
        """Whether a setting may differ from its value at the start of the run."""
        return any(key == name or key.startswith(f"{name}.") for name in self.allow_change)


def finished_before(reuse: Reuse, console: Console) -> Summary | None:
    """The summary of the directory's run if it is finished, else None.

    If the summary is damaged, the caller resumes the run, which writes it again.

    Raises:
        ValueError: the run may not use the directory, see `Reuse.check`; or it finished with other
            settings.
    """
    directory, changes = reuse.directory, reuse.check()
    try:
        summary = directory.read_summary()
    except ValueError as error:
        say(console, f"{error}; it is written again")
        return None
    if summary is None or not summary.finished:
        return None
    checkpoint, _ = CheckpointFolder(directory.checkpoints, 1).newest()
    if checkpoint is not None:
        changes = reuse.changes_since(checkpoint)
    if changes:
        raise ValueError(
            f"{directory.folder} has finished with other settings, which cannot be changed any more; "
            "choose another --out. They differ in:\n  " + "\n  ".join(changes)
        )
    return summary


def newest_checkpoint(
    reuse: Reuse,
    checkpoints: CheckpointFolder,
    processes: Processes,
    display: Display,
) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to go on from, if any, and the allowed changes since it was written, one line each.

    Raises:
        ValueError: it was trained with another recipe or on other images, or an entry is damaged.
    """
    processes.from_first(checkpoints.remove_partial)
    checkpoint, problems = checkpoints.newest(processes)
    for problem in problems:
        display.note(f"skipped a checkpoint: {problem}")
    if checkpoint is None:
        return None, []
    changes = reuse.changes_since(checkpoint)
    now = checkpoints.entries["data"]
    return checkpoint, changes + _data_changes(reuse, checkpoint.content.get("data"), now)


def _data_changes(reuse: Reuse, before: object, now: dict[str, Any]) -> list[str]:
    """A line on changed images to record; raises ValueError if images may not change."""
    changed = changed_images(before, now)
    if changed is None:
        return []
    if not reuse.may_change("data.source"):
        raise ValueError(
            f"the training images have changed since the run in {reuse.directory.folder} was begun: "
            f"{changed}. The run would not go on with those it has learned from; restore them, begin again "
            "in another --out, or accept and record the change with --allow-change data.source"
        )
    return [f"the training images: {changed}"]


def what_is_left(directory: RunDirectory, step: int, saved: int | None) -> str:
    """Message on a run that broke off: what is saved, and the command to go on.

    Args:
        directory: the run directory.
        step: the last trained step.
        saved: the step of its newest checkpoint; None without one.
    """
    if not directory.recipe.is_file():
        if step == 0:
            return "Nothing was trained; with that mended, run the same command again"
        return f"{directory.folder} was deleted under the run: nothing is left of it to go on with"
    kept = "No checkpoint is left" if saved is None else f"The run is kept up to step {saved}"
    return f"{kept}; with that mended, go on with: {directory.resume_command()}"
