"""MagFace: a margin that grows with the length of the embedding, and a reward for length."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fusedface.kernels.margins.angular import arc_target, require_angle
from fusedface.kernels.margins.base import Batch, Margin, State
from fusedface.kernels.margins.form import Form, Target
from fusedface.kernels.margins.records import require


@dataclass(frozen=True, kw_only=True)
class MagFace(Margin):
    """T(c) = cos(theta + m(a)), plus lambda_g g(a) (Meng et al., "MagFace", CVPR 2021, eq. 2 and sec. 3.2).

    a is the length of the embedding, held in [l_a, u_a]; m(a) rises linearly from l_m to u_m, and
    g(a) = 1 / a + a / u_a^2 falls with a. Gradient flows through the lengths. Past theta = pi - m(a),
    T(c) = c - m sin m, as in the authors' code without its easy margin.

    Args:
        s: scale.
        l_a: length below which the margin is l_m, and no gradient flows through the length.
        u_a: length above which the margin is u_m, and no gradient flows through the length.
        l_m: margin at l_a, radians.
        u_m: margin at u_a, radians, at least l_m.
        lambda_g: weight of g.
        easy_margin: give the margin only to samples with c > 0 (the authors' default).
    """

    l_a: float = 10.0
    u_a: float = 110.0
    l_m: float = 0.45
    u_m: float = 0.8
    lambda_g: float = 35.0
    easy_margin: bool = False

    name: ClassVar[str] = "magface"
    learns_norms: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require("l_a", self.l_a, 0.0 < self.l_a < math.inf, "a length, positive and finite")
        require(
            "u_a", self.u_a, self.l_a < self.u_a < math.inf, f"a length above l_a = {self.l_a:g}"
        )
        require_angle("l_m", self.l_m)
        require_angle("u_m", self.u_m)
        require("u_m", self.u_m, self.u_m >= self.l_m, f"at least l_m = {self.l_m:g}")
        require("lambda_g", self.lambda_g, 0.0 <= self.lambda_g < math.inf, "at least 0")

    def target(self, batch: Batch, state: State) -> Tensor:
        """T(c), (B,)."""
        m = self.l_m + self._rise * (batch.norms.clamp(self.l_a, self.u_a) - self.l_a)
        return arc_target(batch.cos_y, m, self.easy_margin)

    def penalty(self, batch: Batch, state: State) -> Tensor:
        """lambda_g g(a), (B,)."""
        a = batch.norms.clamp(self.l_a, self.u_a)
        return self.lambda_g * (a.reciprocal() + a / self.u_a**2)

    def form(self) -> Form:
        """An arc of m(a), and lambda_g g(a)."""
        kind = Target.EASY_LENGTH_ARC if self.easy_margin else Target.LENGTH_ARC
        return Form(kind, (self.l_a, self.u_a, self.l_m, self._rise, self.lambda_g))

    @property
    def _rise(self) -> float:
        """Margin for each unit of length."""
        return (self.u_m - self.l_m) / (self.u_a - self.l_a)
