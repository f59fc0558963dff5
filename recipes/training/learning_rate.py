"""The length of a run, and the learning rate of each step."""

import math
from dataclasses import dataclass

from fusedface.recipes.configuration.schedule import Schedule


def num_steps(schedule: Schedule, steps_per_epoch: int) -> int:
    """The length of a run in steps, at least 1."""
    if schedule.steps is not None:
        return schedule.steps
    return max(1, round(schedule.epochs * steps_per_epoch))


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
