"""How a run goes on from one of its checkpoints."""

from typing import TYPE_CHECKING

from fusedface.recipes.training.checkpoint import Checkpoint
from fusedface.recipes.training.learner_state import load_state

if TYPE_CHECKING:
    from fusedface.recipes.training.trainer import Trainer


def go_on(trainer: "Trainer", checkpoint: Checkpoint | None, changes: list[str]) -> None:
    """Go on from a checkpoint, if there is one, and record changes of settings and images.

    Args:
        trainer: changed in place.
        checkpoint: the same on all processes.
        changes: changed settings and images, a line each.

    Raises:
        ValueError: it does not fit the recipe, or an entry is damaged; the message names file and entry.
    """
    if checkpoint is not None:
        is_new = any(line.startswith("train.compile:") for line in changes)
        with trainer.processes.together():
            _load(trainer, checkpoint, is_new=is_new)
        changes = changes + _changed_precision(trainer, changes)
        step = trainer.progress.step
        trainer.display.note(f"going on after step {step} of {trainer.plan.num_steps}")
    if not changes:
        return
    if any(line.startswith("schedule.loss:") for line in changes):
        # Conditions have ended stages of the other schedule, not of this one.
        trainer.progress.stages_ended.clear()
    step = trainer.progress.step
    trainer.progress.recipe_changes.append({"step": step, "changes": changes})
    for line in changes:
        trainer.display.note(f"changed after step {step}: {line}")
    if checkpoint is not None:
        trainer.save(best=False)  # recorded before a step is made with other settings


def _changed_precision(trainer: "Trainer", changes: list[str]) -> list[str]:
    """A line if train.precision=auto is another precision on this device than on that of the checkpoint."""
    before, now = trainer.progress.precision, trainer.learner.precision.name
    trainer.progress.precision = now
    is_told = any(line.startswith("train.precision:") for line in changes)
    if before in (None, now) or is_told:
        return []
    return [f"the precision: {now} instead of {before}, by the device"]


def _load(trainer: "Trainer", checkpoint: Checkpoint, *, is_new: bool) -> None:
    """Load the state of a checkpoint; nothing changes unless all of it fits.

    `is_new`: whether `train.compile` has changed.
    """
    progress, meter = checkpoint.progress(trainer.plan.num_steps)
    load_state(trainer.learner, checkpoint, meter, step=progress.step)
    checkpoint.restore_generators(
        trainer.learner.precision.device, is_shared=trainer.processes.count > 1
    )
    trainer.progress = progress
    progress.compiled = trainer.learner.compiling.go_on(progress.compiled, is_new=is_new)
    trainer.plan.losses.ended = progress.stages_ended
    trainer.saved_step = progress.step
    trainer.status.step = progress.step
    latest = progress.verification or progress.untrained or {}
    trainer.status.verification = {name: figures["accuracy"] for name, figures in latest.items()}
