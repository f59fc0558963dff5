"""The combined margin: a factor and a term on the angle, and a term on the cosine."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fusedface.kernels.margins.angular import angle, require_angle
from fusedface.kernels.margins.base import Batch, Margin, State
from fusedface.kernels.margins.form import Form, Target
from fusedface.kernels.margins.records import require


@dataclass(frozen=True, kw_only=True)
class Combined(Margin):
    """T(c) = cos(min(m1 theta + m2, pi)) - m3 (Deng et al., "ArcFace", CVPR 2019, eq. 4).

    The bound, as SphereFace has it here, keeps T falling with the angle; the paper and its code have none.

    Args:
        m1: factor on the angle, m1 >= 1 (SphereFace).
        m2: term on the angle, radians (ArcFace).
        m3: term on the cosine, 0 <= m3 < 2 (CosFace).
        s: scale.
    """

    m1: float = 1.0
    m2: float = 0.3
    m3: float = 0.2

    name: ClassVar[str] = "combined"

    def __post_init__(self) -> None:
        super().__post_init__()
        require("m1", self.m1, 1.0 <= self.m1 < math.inf, "a factor on the angle, m1 >= 1")
        require_angle("m2", self.m2)
        require("m3", self.m3, 0.0 <= self.m3 < 2.0, "a difference of cosines, 0 <= m3 < 2")

    def target(self, batch: Batch, state: State) -> Tensor:
        """T(c), (B,)."""
        moved = self.m1 * angle(batch.cos_y) + self.m2
        return torch.cos(moved.clamp_max(math.pi)) - self.m3

    def form(self) -> Form:
        """A factor and a term on the angle, a term on the cosine."""
        return Form(Target.FACTOR, (self.m1, self.m2, self.m3))
