"""The fused margin-softmax head: margins, one primitive, its backends, one public function.

    margins/       T and N of each loss, and what it carries from batch to batch
    functional.py  margin_loss: checks, the primitive, then plain autograd on B numbers
    primitive.py   what a backend computes        reference.py, chunked.py: the backends
    landmarks.py   the loss to expect at the start

Imports torch alone, nothing of the rest of the project.
"""

from fusedface.kernels.checks import NonFiniteInputError
from fusedface.kernels.functional import MarginOutput, Modulation, margin_loss
from fusedface.kernels.landmarks import predicted_initial_loss
from fusedface.kernels.margins import (
    MARGINS,
    MVAM,
    AdaFace,
    ArcFace,
    CosFace,
    CurricularFace,
    Margin,
    MVArc,
    NormFace,
    SphereFace,
)
from fusedface.kernels.reference import cosines

__all__ = [
    "MARGINS",
    "MVAM",
    "AdaFace",
    "ArcFace",
    "CosFace",
    "CurricularFace",
    "MVArc",
    "Margin",
    "MarginOutput",
    "Modulation",
    "NonFiniteInputError",
    "NormFace",
    "SphereFace",
    "cosines",
    "margin_loss",
    "predicted_initial_loss",
]
