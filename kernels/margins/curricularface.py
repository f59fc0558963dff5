"""CurricularFace: hard negatives count little at first and more as training goes well."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fusedface.kernels.margins.angular import arc_target, cos_plus, require_angle
from fusedface.kernels.margins.base import (
    Batch,
    Margin,
    Reweighting,
    State,
    batch_mean,
    fold_in,
)
from fusedface.kernels.margins.form import Average, Form, arc
from fusedface.kernels.margins.records import require


@dataclass(frozen=True, kw_only=True)
class CurricularFace(Margin):
    """T(c) = cos(theta + m); N(c) = c (t + c) above cos(theta_y + m) (Huang et al., CVPR 2020, eq. 4 to 7).

    t is an exponential average of the batch mean of the target cosine, without margin, updated before
    it is used. The paper writes alpha = 0.99 on the *new* value (eq. 7), the official code 0.99 on the
    old one; this follows the code, and `t_momentum=0.99` gives the paper's text.

    Args:
        m: margin in radians.
        s: scale.
        t_momentum: weight of the new batch in the average, 0 < t_momentum <= 1.
    """

    m: float = 0.5
    t_momentum: float = 0.01

    name: ClassVar[str] = "curricularface"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_angle("m", self.m)
        require("t_momentum", self.t_momentum, 0.0 < self.t_momentum <= 1.0, "in (0, 1]")

    def initial_state(self) -> dict[str, float]:
        """t starts at 0."""
        return {"t": 0.0}

    def state_at(self, target_cosine: float) -> dict[str, float]:
        """t is what its average tends to."""
        return {"t": target_cosine}

    def update_state(self, batch: Batch, state: State) -> None:
        """t <- t_momentum mean(c_y) + (1 - t_momentum) t."""
        mean = batch_mean(batch.cos_y, batch.valid)
        fold_in(state["t"], mean, self.t_momentum, batch.valid)

    def target(self, batch: Batch, state: State) -> Tensor:
        """T(c) with ArcFace's branch past pi - m, (B,) -> (B,)."""
        return arc_target(batch.cos_y, self.m, easy_margin=False)

    def threshold(self, batch: Batch, state: State) -> Tensor:
        """cos(theta_y + m), without the branch, as the official code has it."""
        return cos_plus(batch.cos_y, self.m)

    def reweighting(self, state: State) -> Reweighting:
        """N(c) = c (t + c): the modulation is t + 2 c."""
        return Reweighting(square=1.0, linear=state["t"])

    def form(self) -> Form:
        """An arc of m; t averages target cosines."""
        return arc(self.m)._replace(average=Average.COSINES, momentum=self.t_momentum)
