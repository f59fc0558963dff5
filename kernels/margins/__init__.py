"""The margins, by name. To add one: a file like its neighbours and one row here."""

from fusedface.kernels.margins.adaface import AdaFace
from fusedface.kernels.margins.arcface import ArcFace
from fusedface.kernels.margins.base import (
    Batch,
    Margin,
    NegativeStats,
    Reweighting,
    State,
    defines_form,
    form_of,
)
from fusedface.kernels.margins.combined import Combined
from fusedface.kernels.margins.cosface import CosFace
from fusedface.kernels.margins.curricularface import CurricularFace
from fusedface.kernels.margins.ldam import LDAM
from fusedface.kernels.margins.magface import MagFace
from fusedface.kernels.margins.mv import MVAM, MVArc
from fusedface.kernels.margins.normface import NormFace
from fusedface.kernels.margins.sphereface import SphereFace

_ALL = (
    NormFace, CosFace, ArcFace, SphereFace, Combined, MVAM, MVArc, CurricularFace, AdaFace, MagFace,
    LDAM,
)  # fmt: skip
MARGINS: dict[str, type[Margin]] = {margin.name: margin for margin in _ALL}

__all__ = [
    "LDAM",
    "MARGINS",
    "MVAM",
    "AdaFace",
    "ArcFace",
    "Batch",
    "Combined",
    "CosFace",
    "CurricularFace",
    "MVArc",
    "MagFace",
    "Margin",
    "NegativeStats",
    "NormFace",
    "Reweighting",
    "SphereFace",
    "State",
    "defines_form",
    "form_of",
]
