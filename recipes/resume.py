"""How a run goes on from what its directory holds: its newest checkpoint, if it is of this recipe."""

from functools import partial
from typing import Any

from rich.console import Console

from fusedface.data import changed_images
from fusedface.recipes.host.terminal import say
from fusedface.recipes.run_directory.directory import RECIPE, RunDirectory
from fusedface.recipes.run_directory.summary import Summary
from fusedface.recipes.training.agreement import check_same_step
from fusedface.recipes.training.checkpoint import CheckpointFolder
from fusedface.recipes.training.trainer import Trainer


def finished_before(directory: RunDirectory, console: Console) -> Summary | None:
    """The summary of a run that has come to its end with this recipe, else None.

    A damaged summary is written again, from what the run itself holds.
    """
    try:
        summary = directory.read_summary()
    except ValueError as error:
        say(console, f"{error}; it is written again")
        return None
    if summary is None or not summary.finished:
        return None
    changes = directory.changes
    checkpoint, _ = CheckpointFolder(directory.checkpoints, 1).newest()
    if checkpoint is not None:
        changes = directory.check_recipe(checkpoint.recipe(), checkpoint.path)
    if changes:
        raise ValueError(
            f"{directory.folder} has finished with other settings, which cannot be changed any more; "
            "choose another --out. They differ in:\n  " + "\n  ".join(changes)
        )
    return summary


def load_newest(directory: RunDirectory, trainer: Trainer) -> bool:
    """Load the newest good checkpoint; whether there is one.

    Raises:
        ValueError: it was trained with another recipe or on other images, or an entry is damaged.
    """
    display, checkpoints = trainer.display, trainer.checkpoints
    processes = trainer.processes
    processes.from_first(checkpoints.remove_partial)
    checkpoint, problems = processes.together(checkpoints.newest)
    check_same_step(None if checkpoint is None else checkpoint.content["step"], processes)
    for problem in problems:
        display.note(f"skipped a checkpoint: {problem}")
    changes = directory.changes
    if checkpoint is not None:
        changes = directory.check_recipe(checkpoint.recipe(), checkpoint.path)
        now = checkpoints.entries["data"]
        changes += _data_changes(directory, checkpoint.content.get("data"), now)
        processes.together(partial(trainer.load, checkpoint))
        display.note(f"going on after step {trainer.progress.step} of {trainer.status.num_steps}")
    if changes:
        step = trainer.progress.step
        trainer.progress.recipe_changes.append({"step": step, "changes": changes})
        for line in changes:
            display.note(f"changed after step {step}: {line}")
        if checkpoint is not None:
            trainer.save(best=False)  # recorded before a step is made with other settings
    return checkpoint is not None


def _data_changes(directory: RunDirectory, before: object, now: dict[str, Any]) -> list[str]:
    """What is to be recorded of images that have changed, if they may."""
    changed = changed_images(before, now)
    if changed is None:
        return []
    if not directory.may_change("data.source"):
        raise ValueError(
            f"the training images have changed since the run in {directory.folder} was begun: {changed}. "
            "The run would not go on with those it has learned from; restore them, begin again in another "
            "--out, or accept and record the change with --allow-change data.source"
        )
    return [f"the training images: {changed}"]


def what_is_left(directory: RunDirectory, trainer: Trainer) -> str:
    """How far a run that broke off is kept, and what to type to go on."""
    if not (directory.folder / RECIPE).is_file():
        if trainer.progress.step == 0:
            return "Nothing was trained; with that mended, run the same command again"
        return f"{directory.folder} was deleted under the run: nothing is left of it to go on with"
    step = trainer.checkpoints.last_step()
    kept = "No checkpoint is left" if step is None else f"The run is kept up to step {step}"
    return f"{kept}; with that mended, go on with: {directory.resume_command()}"
