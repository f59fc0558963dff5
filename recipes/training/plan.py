"""The plan of a run: what happens at which step."""

import math
from dataclasses import dataclass

import numpy as np

from fusedface.data import FaceSource
from fusedface.kernels import check_sample_rate
from fusedface.recipes.configuration.loss_stages import Stage, stages_of
from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.batches import Batches
from fusedface.recipes.training.learning_rate import LearningRate, num_steps
from fusedface.recipes.training.loss_schedule import LossSchedule


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """The steps after which a run logs, evaluates and saves; after the last step it does all three.

    Args:
        num_steps: steps of the run.
        log_every: steps between lines of metrics.
        evaluate_every: steps between evaluations, each with a checkpoint; 0 evaluates only at the end.
        checkpoint_every: steps between the other checkpoints.
        saves_first: whether a checkpoint precedes the first step.
    """

    num_steps: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    saves_first: bool = False

    def logs(self, step: int) -> bool:
        """Whether a line of metrics follows the first `step` steps."""
        return step == self.num_steps or step % self.log_every == 0

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows them."""
        return step == self.num_steps or (
            self.evaluate_every > 0 and step % self.evaluate_every == 0
        )

    def saves(self, step: int) -> bool:
        """Whether a checkpoint follows them."""
        return self.evaluates(step) or step % self.checkpoint_every == 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a run.

    Args:
        batches: its images.
        lr: its learning rate.
        losses: its margin.
        timetable: when it logs, evaluates and saves.
        freeze: number of first steps in which only the class centres learn.
    """

    batches: Batches
    lr: LearningRate
    losses: LossSchedule
    timetable: Timetable
    freeze: int = 0

    @property
    def num_steps(self) -> int:
        """Steps of the run."""
        return self.timetable.num_steps


def make_plan(recipe: Recipe, source: FaceSource, processes: Processes) -> Plan:
    """The plan of a run: batches, rates, margins and timetable by step.

    Args:
        recipe: the recipe of the run.
        source: its training images.
        processes: the processes that share each step.
    """
    optim, train = recipe.optim, recipe.train
    batches = Batches(len(source), optim.batch_size, train.seed, processes.rank, processes.count)
    smallest = 1 if train.freeze_statistics else 2  # two, for batch normalisation
    _check_accumulate(optim.accumulate, batches.own_size, processes.count, smallest)
    check_sample_rate(recipe.head.sample_rate, batches.batch_size, source.num_classes)
    steps = num_steps(recipe.schedule, batches.steps_per_epoch)
    return Plan(
        batches=batches,
        lr=LearningRate(base=optim.lr, num_steps=steps, schedule=recipe.schedule),
        losses=LossSchedule(_stages(recipe, source), steps),
        timetable=Timetable(
            num_steps=steps,
            log_every=train.log_every,
            evaluate_every=_steps(recipe.evaluation.every, batches.steps_per_epoch),
            checkpoint_every=train.checkpoint_every,
            # A resumed run then no longer needs the checkpoint that it began with.
            saves_first=recipe.init.checkpoint is not None,
        ),
        freeze=train.freeze,
    )


def _steps(epochs: float, steps_per_epoch: int) -> int:
    """The steps of a time in epochs, rounded up; 0 only for 0 epochs."""
    # Rounded first, because .55 of 100 steps are 55.00000000000001 in float64.
    return max(math.ceil(round(epochs * steps_per_epoch, 6)), int(epochs > 0))


def _check_accumulate(accumulate: int, num_images: int, num_processes: int, smallest: int) -> None:
    """Raise ValueError unless the images of a process can be divided into parts of one size."""
    if num_images % accumulate or 1 < accumulate > num_images // smallest:
        of_each = "" if num_processes == 1 else " of each process"
        at_least = "" if smallest == 1 else f" of at least {smallest}"
        raise ValueError(
            f"the {num_images} images{of_each} cannot be divided into optim.accumulate="
            f"{accumulate} equal parts{at_least}: set it to another divisor of their number"
        )


def _stages(recipe: Recipe, source: FaceSource) -> list[Stage]:
    """The margins of the run, which may depend on the number of images of each person."""
    counts = tuple(np.bincount(source.labels, minlength=source.num_classes).tolist())
    stages = stages_of(recipe.schedule.loss, recipe.head.margin)
    return [stage._replace(margin=stage.margin.with_class_counts(counts)) for stage in stages]
