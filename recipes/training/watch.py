"""Watches the metrics of a run and warns if it is about to sink; it does not stop the run.

It does not stop the run because its errors are false alarms (docs/convergence.md).
"""

from dataclasses import dataclass
from typing import NamedTuple

from fusedface.kernels import Margin
from fusedface.kernels.sinking import CRITERION_STEPS, learns_above, pace, steps_down
from fusedface.recipes.run_directory.closing import SCALE_WARMUP, STRAIGHT_THROUGH

AGAIN = 200  # the step of the second check
DEEP = -0.3  # no run was seen to recover from this target cosine


class Look(NamedTuple):
    """The figures that the theory derives from a line of metrics."""

    slope_gap: float
    """F0 of the current margin."""
    pace_steps: float | None
    """1 / beta, in steps; None without SGD."""
    warning: str | None


@dataclass(frozen=True)
class SinkingWatch:
    """Checks the criterion of sinking at two steps of a run.

    Args:
        num_classes: C.
        target_gradient: of the head.
        warmup_steps: of the schedule.
        log_every: steps between lines of metrics.
    """

    num_classes: int
    target_gradient: str
    warmup_steps: int
    log_every: int

    def look(
        self,
        step: int,
        margin: Margin,
        figures: dict[str, float],
        lr: float,
        momentum: float | None,
    ) -> Look:
        """Look at a line of metrics.

        Args:
            step: of the line.
            margin: the margin of its steps.
            figures: of the line.
            lr: the learning rate of the class centres.
            momentum: that of SGD; None for another optimiser.
        """
        gap = margin.slope_gap(target_gradient=self.target_gradient, num_classes=self.num_classes)
        beta = None
        if momentum is not None and "centre_length" in figures:
            beta = pace(margin.s, self.num_classes, figures["centre_length"], lr, momentum)
        warning = None
        if self._is_asked(step) and "target_cosine" in figures:
            warning = self._warning(step, margin, figures["target_cosine"], beta)
        return Look(gap, 1.0 / beta if beta else None, warning)

    def _is_asked(self, step: int) -> bool:
        """Whether this line is the first one at or after one of the two steps."""
        first = self.warmup_steps + CRITERION_STEPS
        asked = (first, max(AGAIN, first + CRITERION_STEPS))
        before = (step - 1) // self.log_every * self.log_every  # the line before this one
        return any(before < at <= step for at in asked)

    def _warning(self, step: int, margin: Margin, cosine: float, beta: float | None) -> str | None:
        above = learns_above(margin, self.target_gradient)
        if above is None or cosine > above:
            return None
        likely = "sinking" if cosine < 0.0 else "likely to sink"
        text = f"step {step}: target cosine {cosine:.3f} is below F0/2 = {above:.3f}: {likely}"
        down = steps_down(margin, cosine, DEEP, beta, self.target_gradient) if beta else None
        if beta and down and cosine > DEEP:
            text += f"; {down:.0f} steps or more to {DEEP:g} (1/beta = {1.0 / beta:.0f})"
        return (
            f"{text}. Cures: --set '{SCALE_WARMUP}', or --set {STRAIGHT_THROUGH}, or CurricularFace; see "
            "docs/convergence.md. The run goes on: some that are warned of recover"
        )
