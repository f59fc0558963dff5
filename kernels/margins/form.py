"""A margin as numbers, for kernels that also do the work on the B numbers of a batch.

Kernels know a few kinds of T (gpu/margin.py) and two averages. A margin of such a kind returns it from
`form`. Every other margin is computed by its own `target`, which is the specification in both cases.
"""

import math
from enum import IntEnum
from typing import NamedTuple

# Bounds of T, the same for every implementation. angular.py explains that of the sine.
MIN_SINE = 1e-6
# AdaFace's, of the published implementation: lengths outside are clipped before the statistics; added to
# the deviation, and what keeps theta + margin inside (0, pi), where its cosine falls with the angle.
MIN_NORM, MAX_NORM = 1e-3, 100.0
EPS = 1e-3


class Target(IntEnum):
    """Kinds of T, at an angle theta with the cosine c, by numbers n."""

    SHIFT = 0  # c - n0
    ARC = 1  # angular.arc_target with n = cos m, sin m, m sin m
    EASY_ARC = 2  # the same with its easy margin
    FACTOR = 3  # cos(min(n0 theta + n1, pi)) - n2
    QUALITY = 4  # AdaFace's with n = m, h
    CLASS_SHIFT = 5  # c - m_y, from `Margin.class_margins`
    LENGTH_ARC = 6  # MagFace's with n = l_a, u_a, l_m, (u_m - l_m) / (u_a - l_a), lambda_g
    EASY_LENGTH_ARC = 7  # the same with its easy margin


OF_LENGTHS = (Target.LENGTH_ARC, Target.EASY_LENGTH_ARC)  # gradient flows through the lengths


class Average(IntEnum):
    """The average that training keeps in the state."""

    NOTHING = 0
    COSINES = 1  # the mean target cosine, into the only number of the state
    LENGTHS = 2  # mean and deviation of the bounded lengths, as AdaFace has them, into both


class Form(NamedTuple):
    """T in numbers, and how training moves the state."""

    target: Target
    numbers: tuple[float, ...]  # of the kind, at most five
    average: Average = Average.NOTHING
    momentum: float = 0.0

    @property
    def padded(self) -> tuple[float, float, float, float, float]:
        """The numbers, and zeros up to five."""
        n0, n1, n2, n3, n4 = [*self.numbers, 0.0, 0.0, 0.0, 0.0, 0.0][:5]
        return n0, n1, n2, n3, n4


def shift(m: float) -> Form:
    """T(c) = c - m."""
    return Form(Target.SHIFT, (m,))


def arc(m: float, easy_margin: bool = False) -> Form:
    """T of `angular.arc_target`, and cos(theta + m) for the threshold."""
    kind = Target.EASY_ARC if easy_margin else Target.ARC
    return Form(kind, (math.cos(m), math.sin(m), m * math.sin(m)))
