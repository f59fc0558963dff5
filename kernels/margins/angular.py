"""Trigonometry of an angle that is only known by its cosine, safe at 0 and pi."""

import math
from typing import Any

import torch
from torch import Tensor

from fusedface.kernels.margins.form import MIN_SINE
from fusedface.kernels.margins.records import require

# d/dc sqrt(1 - c^2) is infinite at |c| = 1, which is where published heads give NaN. Float32 cosines
# next to 1 have a sine of 3.5e-4, so MIN_SINE acts only at |c| = 1 and moves cos(angle + m) there
# by less than 5e-7. The gradient in the embedding is 0 there whatever the bound: c is at its maximum.


def sine(cos: Tensor) -> Tensor:
    """sin of the angles in [0, pi] whose cosines are given, at least MIN_SINE; any shape."""
    # (1 - c)(1 + c) keeps the digits that 1 - c^2 cancels near |c| = 1.
    return ((1.0 - cos) * (1.0 + cos)).clamp_min(MIN_SINE**2).sqrt()


def cos_plus(cos: Tensor, m: float | Tensor) -> Tensor:
    """cos(angle + m), any shape."""
    cos_m, sin_m = _cos_sin(m)
    return cos * cos_m - sine(cos) * sin_m


def angle(cos: Tensor) -> Tensor:
    """The angle in [0, pi] of a cosine, with a finite derivative at both ends; any shape."""
    return torch.atan2(sine(cos), cos)


def arc_target(cos_y: Tensor, m: float | Tensor, easy_margin: bool) -> Tensor:
    """cos(angle + m) where that falls with the angle, else what keeps it falling (ArcFace, official code).

    Past angle = pi - m, cos(angle + m) rises again; there the target becomes c - m sin m. With
    `easy_margin` the margin is given only to samples with c > 0.
    """
    lowered = cos_plus(cos_y, m)
    cos_m, sin_m = _cos_sin(m)
    if easy_margin:
        return torch.where(cos_y > 0, lowered, cos_y)
    return torch.where(cos_y > -cos_m, lowered, cos_y - m * sin_m)


def _cos_sin(m: float | Tensor) -> tuple[Any, Any]:
    """Cosine and sine of one margin, or of one for each sample."""
    return (m.cos(), m.sin()) if isinstance(m, Tensor) else (math.cos(m), math.sin(m))


def require_angle(name: str, value: float) -> None:
    """Raise ValueError unless `value` is an angle in [0, pi) radians."""
    rule = "an angle in radians, 0 <= m < pi (28.6 degrees are 0.5 radians)"
    require(name, value, 0.0 <= value < math.pi, rule)
