"""T of a margin at all target cosines, its slopes, the threshold and MagFace's penalty, on the device.

The formulae are those of kernels/margins, which are the specification; the derivatives are docs/losses.md
(6) to (8). A comparison with NaN is false, and every branch here is chosen so that a NaN stays one.

Angles lie in [0, pi]. There polynomials give them and their cosines to a few units of the last place, the
same on every device. The general functions also have a path for huge arguments, which needs memory.
"""

import math

import triton
import triton.language as tl

from fusedface.kernels.margins.form import EPS as _EPS
from fusedface.kernels.margins.form import MAX_NORM as _MAX_NORM
from fusedface.kernels.margins.form import MIN_NORM as _MIN_NORM
from fusedface.kernels.margins.form import MIN_SINE, Target

SHIFT, ARC, EASY_ARC, FACTOR, QUALITY, CLASS_SHIFT, LENGTH_ARC, EASY_LENGTH_ARC = (
    tl.constexpr(kind.value) for kind in Target
)
PI = tl.constexpr(math.pi)
HALF_PI = tl.constexpr(math.pi / 2)
QUARTER_PI = tl.constexpr(math.pi / 4)
TAN_PI_8 = tl.constexpr(math.tan(math.pi / 8))
LEAST_SQUARE = tl.constexpr(MIN_SINE**2)
EPS, MIN_NORM, MAX_NORM = tl.constexpr(_EPS), tl.constexpr(_MIN_NORM), tl.constexpr(_MAX_NORM)


@triton.jit
def target(cos, norm, mean, std, n0, n1, n2, KIND: tl.constexpr):
    """T, T' and the threshold, of a margin that does not differentiate lengths.

    `n0` to `n2` are `form.Form.numbers`, or n0 the margins of the classes; mean and std AdaFace's state.
    """
    sin, bounded = sine(cos)  # pyright: ignore[reportGeneralTypeIssues]
    if (KIND == SHIFT) | (KIND == CLASS_SHIFT):
        value = cos - n0
        slope = tl.full(cos.shape, 1.0, tl.float32)
        threshold = value
    elif KIND <= EASY_ARC:
        value, slope, threshold = arc_target(  # pyright: ignore[reportGeneralTypeIssues]
            cos, sin, bounded, n0, n1, n2, KIND == EASY_ARC
        )
    elif KIND == FACTOR:
        moved = n0 * angle(cos, sin) + n1
        past = moved > PI
        moved = tl.where(past, PI, moved)
        value = cos_of(moved) - n2
        slope = tl.where(past, 0.0, n0 * sin_of(moved) / sin)
        threshold = value
    else:
        quality = clamped(n1 * (clamped(norm, MIN_NORM, MAX_NORM) - mean) / (std + EPS), -1.0, 1.0)
        moved = angle(cos, sin) - n0 * quality
        inside = clamped(moved, EPS, PI - EPS)
        value = cos_of(inside) - (n0 * quality + n0)
        slope = tl.where(moved == inside, sin_of(inside) / sin, 0.0)
        threshold = value
    return value, slope, threshold


@triton.jit
def length_target(cos, norm, shortest, longest, least, rise, weight, EASY: tl.constexpr):
    """MagFace's T, T', dT/da, penalty and its derivative, by the numbers of `form.Target.LENGTH_ARC`."""
    sin, bounded = sine(cos)  # pyright: ignore[reportGeneralTypeIssues]
    a = clamped(norm, shortest, longest)
    m = least + rise * (a - shortest)
    cos_m, sin_m = cos_of(m), sin_of(m)
    value, slope, _ = arc_target(  # pyright: ignore[reportGeneralTypeIssues]
        cos, sin, bounded, cos_m, sin_m, m * sin_m, EASY
    )
    falls = cos > (0.0 if EASY else -cos_m)
    of_angle = -(cos * sin_m + sin * cos_m)
    of_length = rise * tl.where(falls, of_angle, 0.0 if EASY else -(sin_m + m * cos_m))
    penalty = weight * (1.0 / a + a / (longest * longest))
    of_penalty = weight * (1.0 / (longest * longest) - 1.0 / (a * a))
    moves = a == norm
    return value, slope, tl.where(moves, of_length, 0.0), penalty, tl.where(moves, of_penalty, 0.0)


@triton.jit
def sine(cos):
    """The sine of the angle, at least MIN_SINE, and whether it was less."""
    # (1 - c)(1 + c) keeps the digits that 1 - c^2 cancels near |c| = 1.
    square = (1.0 - cos) * (1.0 + cos)
    bounded = square < LEAST_SQUARE
    return tl.sqrt(tl.where(bounded, LEAST_SQUARE, square)), bounded


@triton.jit
def arc_target(cos, sin, bounded, cos_m, sin_m, fall, EASY: tl.constexpr):
    """ArcFace's T and T', and cos(theta + m) everywhere; `fall` is m sin m."""
    lowered = cos * cos_m - sin * sin_m
    lowered_slope = cos_m + tl.where(bounded, 0.0, sin_m * cos / sin)
    if EASY:
        value = tl.where(cos > 0.0, lowered, cos)
        slope = tl.where(cos > 0.0, lowered_slope, 1.0)
    else:
        value = tl.where(cos > -cos_m, lowered, cos - fall)
        slope = tl.where(cos > -cos_m, lowered_slope, 1.0)
    return value, slope, lowered


@triton.jit
def clamped(value, low, high):
    """`value` in [low, high]; NaN stays NaN."""
    return tl.where(value < low, low, tl.where(value > high, high, value))


@triton.jit
def angle(cos, sin):
    """The angle in [0, pi] of a cosine and its sine, which is above 0 (Cephes' atanf)."""
    size = tl.abs(cos)
    steep = sin > size
    ratio = tl.where(steep, size, sin) / tl.where(steep, sin, size)  # in [0, 1]
    far = ratio > TAN_PI_8
    t = tl.where(far, (ratio - 1.0) / (ratio + 1.0), ratio)
    z = t * t
    tail = ((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z - 3.33329491539e-1
    acute = tl.where(far, QUARTER_PI, 0.0) + (tail * z * t + t)
    acute = tl.where(steep, HALF_PI - acute, acute)
    return tl.where(cos < 0.0, PI - acute, acute)


@triton.jit
def cos_of(theta):
    """Cosine of an angle in [0, pi]: the sine of y = pi / 2 - angle, by its series to y^13."""
    y = HALF_PI - theta
    z = y * y
    tail = ((1.6059043837e-10 * z - 2.5052108385e-8) * z + 2.7557319224e-6) * z - 1.9841269841e-4
    tail = (tail * z + 8.3333333333e-3) * z - 1.6666666667e-1
    return tail * z * y + y


@triton.jit
def sin_of(theta):
    """Sine of an angle in [0, pi], by the same series from the nearer end."""
    return cos_of(tl.where(theta > HALF_PI, theta - HALF_PI, HALF_PI - theta))
