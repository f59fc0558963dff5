"""SphereFace in its bounded form: a margin that multiplies the angle."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fusedface.kernels.margins.angular import angle
from fusedface.kernels.margins.base import Batch, Margin, State
from fusedface.kernels.margins.form import Form, Target
from fusedface.kernels.margins.records import require


@dataclass(frozen=True, kw_only=True)
class SphereFace(Margin):
    """T(c) = cos(min(m theta, pi)) (Liu et al., "SphereFace Revived", TPAMI 2022, SphereFace-R v1).

    The bound replaces the piecewise extension and the annealing of the original SphereFace (CVPR 2017).

    Args:
        m: factor on the angle, m >= 1.
        s: scale.
    """

    m: float = 1.4

    name: ClassVar[str] = "sphereface"

    def __post_init__(self) -> None:
        super().__post_init__()
        require("m", self.m, 1.0 <= self.m < math.inf, "a factor on the angle, m >= 1")

    def target(self, batch: Batch, state: State) -> Tensor:
        """T(c), (B,) -> (B,)."""
        return torch.cos((self.m * angle(batch.cos_y)).clamp_max(math.pi))

    def form(self) -> Form:
        """A factor on the angle."""
        return Form(Target.FACTOR, (self.m, 0.0, 0.0))
