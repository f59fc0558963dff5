"""NormFace: softmax on scaled cosines, without a margin."""

from dataclasses import dataclass
from typing import ClassVar

from fusedface.kernels.margins.base import Margin


@dataclass(frozen=True, kw_only=True)
class NormFace(Margin):
    """T(c) = c (Wang et al., "NormFace: L2 Hypersphere Embedding for Face Verification", 2017, eq. 6)."""

    name: ClassVar[str] = "normface"
