"""The learning rate and the margin of each step.

Both are functions of the step, so a checkpoint does not store them. One exception: the steps at which
conditions have ended stages of `schedule.loss`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fusedface.recipes.configuration.loss_stages import Stage
from fusedface.recipes.configuration.training import Schedule


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Linear warm-up, then the schedule's kind.

        w warm-up steps of n in all, step i = 0, 1, ... n - 1          u = (i - w) / (n - w)
        i < w        base (i + 1) / w
        step         base gamma^(number of milestones m with i >= m n)
        cosine       base (1 + cos(pi u)) / 2
        polynomial   base (1 - u)^power

    Args:
        base: the rate after the warm-up.
        num_steps: n.
        schedule: the settings `schedule.*` of the recipe.

    Raises:
        ValueError: the warm-up leaves no other step.
    """

    base: float
    num_steps: int
    schedule: Schedule

    def __post_init__(self) -> None:
        if self.schedule.warmup_steps >= self.num_steps:
            raise ValueError(
                f"schedule.warmup_steps must be below the {self.num_steps} steps of this run, "
                f"got {self.schedule.warmup_steps}; train for longer or warm up for fewer steps"
            )

    def __call__(self, step: int) -> float:
        """The rate of the step with this index (from 0)."""
        schedule = self.schedule
        if step < schedule.warmup_steps:
            return self.base * (step + 1) / schedule.warmup_steps
        if schedule.kind == "step":
            passed = sum(step >= fraction * self.num_steps for fraction in schedule.milestones)
            return self.base * schedule.gamma**passed
        done = (step - schedule.warmup_steps) / (self.num_steps - schedule.warmup_steps)
        if schedule.kind == "cosine":
            return self.base * (1.0 + math.cos(math.pi * done)) / 2.0
        return self.base * (1.0 - done) ** schedule.power


class LossSchedule:
    """The margin of each step: a stage applies while the step i < fraction n, or until its condition holds.

    Args:
        stages: see `loss_stages.stages_of`; the last is the margin of the head.
        num_steps: n.

    Attributes:
        ended: by the index of a stage that its condition has ended: the number of steps made by then.
    """

    def __init__(self, stages: Sequence[Stage], num_steps: int) -> None:
        self.stages, self.num_steps = tuple(stages), num_steps
        self.ended: dict[int, int] = {}

    def __call__(self, step: int) -> Stage:
        """The stage of the step with this index (from 0)."""
        return self.stages[self._index(step)]

    def look(self, step: int, cosine: float) -> Stage | None:
        """End the stage of the last step if its condition holds.

        Args:
            step: number of steps made.
            cosine: the mean target cosine of the newest steps.

        Returns:
            The ended stage; None if it goes on.
        """
        index = self._index(step - 1)
        above = self.stages[index].above
        if above is None or index in self.ended or cosine <= above:
            return None
        self.ended[index] = step
        return self.stages[index]

    @property
    def last_begins(self) -> int:
        """Number of steps before the margin of the head applies."""
        return max((self._end(i) for i in range(len(self.stages) - 1)), default=0)

    def _index(self, step: int) -> int:
        last = len(self.stages) - 1
        return next((i for i in range(last) if step < self._end(i)), last)

    def _end(self, index: int) -> int:
        """Number of steps made when a stage ends."""
        latest = math.ceil(self.stages[index].until * self.num_steps)
        return min(latest, self.ended.get(index, latest))


def num_steps(schedule: Schedule, steps_per_epoch: int) -> int:
    """The length of a run in steps, at least 1."""
    if schedule.steps is not None:
        return schedule.steps
    return max(1, round(schedule.epochs * steps_per_epoch))
