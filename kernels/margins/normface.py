"""NormFace: softmax on scaled cosines, without a margin."""

from dataclasses import dataclass
from typing import ClassVar

from fusedface.kernels.margins.base import Margin
from fusedface.kernels.margins.form import Form, shift


@dataclass(frozen=True, kw_only=True)
class NormFace(Margin):
    """T(c) = c (Wang et al., "NormFace: L2 Hypersphere Embedding for Face Verification", 2017, eq. 6)."""

    name: ClassVar[str] = "normface"

    def form(self) -> Form:
        """No shift."""
        return shift(0.0)
