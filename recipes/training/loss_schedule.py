"""The margin of each step.

It is a function of the step, so a checkpoint does not store it. One exception: the steps at which
conditions have ended stages of `schedule.loss`.
"""

import math
from collections.abc import Sequence

from fusedface.recipes.configuration.loss_stages import Stage


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
