"""The margins, by name. To add one: a file like its neighbours and one row here."""

from fusedface.kernels.margins.adaface import AdaFace
from fusedface.kernels.margins.arcface import ArcFace
from fusedface.kernels.margins.base import Batch, Margin, NegativeStats, Reweighting, State
from fusedface.kernels.margins.cosface import CosFace
from fusedface.kernels.margins.curricularface import CurricularFace
from fusedface.kernels.margins.mv import MVAM, MVArc
from fusedface.kernels.margins.normface import NormFace
from fusedface.kernels.margins.sphereface import SphereFace

_ALL = (NormFace, CosFace, ArcFace, SphereFace, MVAM, MVArc, CurricularFace, AdaFace)
MARGINS: dict[str, type[Margin]] = {margin.name: margin for margin in _ALL}

__all__ = [
    "MARGINS",
    "MVAM",
    "AdaFace",
    "ArcFace",
    "Batch",
    "CosFace",
    "CurricularFace",
    "MVArc",
    "Margin",
    "NegativeStats",
    "NormFace",
    "Reweighting",
    "SphereFace",
    "State",
]
