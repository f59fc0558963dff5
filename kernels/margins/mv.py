"""MV-Softmax: a fixed re-weighting of the negatives that the margin has not passed."""

from dataclasses import dataclass
from typing import ClassVar

from fusedface.kernels.margins.arcface import ArcFace
from fusedface.kernels.margins.base import Margin, Reweighting, State
from fusedface.kernels.margins.cosface import CosFace
from fusedface.kernels.margins.records import require


@dataclass(frozen=True, kw_only=True)
class _MisclassifiedVector(Margin):
    """N(c) = t c + t - 1 where hard (Wang et al., "Mis-classified Vector Guided Softmax", AAAI 2020)."""

    t: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "in the paper's convention, 1 <= t < 10"
        if self.t < 1:
            rule += f"; did you mean 1 + t = {1.0 + self.t:g}? The authors' code calls that t"
        require("t", self.t, 1.0 <= self.t < 10.0, rule)

    def reweighting(self, state: State) -> Reweighting:
        """N(c) = t c + t - 1: the modulation is t for every hard negative."""
        return Reweighting(linear=self.t, constant=self.t - 1.0)


@dataclass(frozen=True, kw_only=True)
class MVAM(_MisclassifiedVector, CosFace):
    """CosFace's T(c) = c - m; c_j is hard above c_y - m (MV-AM-Softmax, same paper, eq. 6 to 8).

    Args:
        m: margin on the cosine, 0 <= m < 2.
        s: scale.
        t: weight of hard negatives, t >= 1, the paper's (t = 0.2 in the authors' code is 1.2 here).
    """

    name: ClassVar[str] = "mvam"
    form = CosFace.form  # T is the same, but a form is not inherited


@dataclass(frozen=True, kw_only=True)
class MVArc(_MisclassifiedVector, ArcFace):
    """ArcFace's T(c) = cos(theta + m); c_j is hard above cos(theta_y + m) (MV-Arc-Softmax, same paper).

    Args:
        m: margin in radians.
        s: scale.
        t: weight of hard negatives, t >= 1, the paper's (t = 0.2 in the authors' code is 1.2 here).
        easy_margin: give the margin only to samples with c > 0 (the authors' default; the threshold
            stays cos(theta_y + m)).
    """

    name: ClassVar[str] = "mvarc"
    form = ArcFace.form
