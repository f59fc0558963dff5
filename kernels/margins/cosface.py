"""CosFace: a margin on the cosine itself."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fusedface.kernels.margins.base import Batch, Margin, State
from fusedface.kernels.margins.form import Form, shift
from fusedface.kernels.margins.records import require


@dataclass(frozen=True, kw_only=True)
class CosFace(Margin):
    """T(c) = c - m (Wang et al., "CosFace: Large Margin Cosine Loss", CVPR 2018, eq. 4).

    Args:
        m: margin on the cosine, 0 <= m < 2.
        s: scale.
    """

    m: float = 0.35

    name: ClassVar[str] = "cosface"

    def __post_init__(self) -> None:
        super().__post_init__()
        require("m", self.m, 0.0 <= self.m < 2.0, "a difference of cosines, 0 <= m < 2")

    def target(self, batch: Batch, state: State) -> Tensor:
        """T(c) = c - m, (B,) -> (B,)."""
        return batch.cos_y - self.m

    def form(self) -> Form:
        """A shift by m."""
        return shift(self.m)
