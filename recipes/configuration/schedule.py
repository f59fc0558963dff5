"""The settings `schedule.*`: the length of a run, and what changes from step to step."""

from dataclasses import dataclass
from typing import Literal, get_args

from fusedface.recipes.configuration.rules import require, require_at_least, require_choice

Decay = Literal["step", "cosine", "polynomial"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The length of the run, its learning rate at each step, and its margin at each step."""

    epochs: float = 6.0
    """Length of the run in passes over the training images."""
    steps: int | None = None
    """Length of the run in steps; if set, it replaces `epochs`."""
    warmup_steps: int = 0
    """Number of first steps in which the learning rate rises linearly to `optim.lr`."""
    kind: Decay = "cosine"
    """Shape of the learning rate after the warm-up: "step", "cosine" or "polynomial"."""
    milestones: tuple[float, ...] = ()
    """For kind "step": the points at which the rate falls, as rising fractions of the run in (0, 1)."""
    gamma: float = 0.1
    """For kind "step": the factor on the rate at each milestone, in (0, 1)."""
    power: float = 2.0
    """For kind "polynomial": the exponent p of rate = lr (remaining fraction of the steps)^p; positive."""
    loss: tuple[str, ...] = ()
    """Margins before that of the head. Each entry begins with the fraction of the run at which it ends:
    "0.1 s=16" changes a setting of the head's margin, "0.2 normface" takes another margin. "0.9 cosine>0.25
    normface" ends as soon as a line of metrics has a target cosine above 0.25."""

    def __post_init__(self) -> None:
        require("schedule.epochs", self.epochs, 0.0 < self.epochs < float("inf"), "positive")
        if self.steps is not None:
            require_at_least(self, "schedule", steps=1)
        require_at_least(self, "schedule", warmup_steps=0)
        self._check_decay()

    def _check_decay(self) -> None:
        """Check how the learning rate falls."""
        require_choice("schedule.kind", self.kind, get_args(Decay))
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        inside = all(0.0 < fraction < 1.0 for fraction in self.milestones)
        rule = "rising fractions of the run, each in (0, 1)"
        require("schedule.milestones", self.milestones, rising and inside, rule)
        if self.kind == "step" and not self.milestones:
            raise ValueError("schedule.milestones must not be empty for schedule.kind 'step'")
        require("schedule.gamma", self.gamma, 0.0 < self.gamma < 1.0, "in (0, 1)")
        require("schedule.power", self.power, self.power > 0.0, "positive")
