"""NormFace: softmax on scaled cosines, without a margin."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fusedface.kernels.margins.base import Margin, State


@dataclass(frozen=True, kw_only=True)
class NormFace(Margin):
    """T(c) = c (Wang et al., "NormFace: L2 Hypersphere Embedding for Face Verification", 2017, eq. 6)."""

    name: ClassVar[str] = "normface"

    def target(self, cos_y: Tensor, norms: Tensor, state: State) -> Tensor:
        """T(c) = c, (B,) -> (B,)."""
        return cos_y
