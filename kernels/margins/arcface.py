"""ArcFace: a margin on the angle."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fusedface.kernels.margins.angular import arc_target, cos_plus, require_angle
from fusedface.kernels.margins.base import Batch, Margin, State
from fusedface.kernels.margins.form import Form, arc


@dataclass(frozen=True, kw_only=True)
class ArcFace(Margin):
    """T(c) = cos(theta + m) (Deng et al., "ArcFace", CVPR 2019, eq. 3), exact gradient.

    Past theta = pi - m, T(c) = c - m sin m, as in the official CurricularFace code; insightface's
    trainer has no such branch since 2022-12 and trains a straight-through gradient (docs/losses.md).

    Args:
        m: margin in radians.
        s: scale.
        easy_margin: give the margin only to samples with c > 0.
    """

    m: float = 0.5
    easy_margin: bool = False

    name: ClassVar[str] = "arcface"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_angle("m", self.m)

    def target(self, batch: Batch, state: State) -> Tensor:
        """T(c), (B,) -> (B,)."""
        return arc_target(batch.cos_y, self.m, self.easy_margin)

    def threshold(self, batch: Batch, state: State) -> Tensor:
        """cos(theta + m), without the branch; ArcFace only counts what lies above it."""
        return cos_plus(batch.cos_y, self.m)

    def form(self) -> Form:
        """An arc of m."""
        return arc(self.m, self.easy_margin)
