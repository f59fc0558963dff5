"""The margin of all rows: the state that takes the batch in, then T, its slope T' and the threshold.

The formulae are those of kernels/margins, which are the specification; the derivatives are docs/losses.md
(6) to (8). A comparison with NaN is false, and every branch here is chosen so that a NaN stays one.

Angles lie in [0, pi]. There polynomials give them and their cosines to a few units of the last place, the
same on every device. The general functions also have a path for huge arguments, which needs memory.
"""

import math

import triton
import triton.language as tl

from fusedface.kernels.gpu.slots import (
    COS,
    LINEAR,
    NORM,
    NUM_VALID,
    SLOPE,
    STATE,
    TARGET,
    THRESHOLD,
    WRONG,
)
from fusedface.kernels.gpu.tile import INFINITE
from fusedface.kernels.margins.form import EPS as _EPS
from fusedface.kernels.margins.form import MAX_NORM as _MAX_NORM
from fusedface.kernels.margins.form import MIN_NORM as _MIN_NORM
from fusedface.kernels.margins.form import MIN_SINE, Average, Target

NOTHING, COSINES, LENGTHS = (tl.constexpr(average.value) for average in Average)
SHIFT, ARC, EASY_ARC, FACTOR, QUALITY = (tl.constexpr(kind.value) for kind in Target)
PI = tl.constexpr(math.pi)
HALF_PI = tl.constexpr(math.pi / 2)
QUARTER_PI = tl.constexpr(math.pi / 4)
TAN_PI_8 = tl.constexpr(math.tan(math.pi / 8))
LEAST_SQUARE = tl.constexpr(MIN_SINE**2)
EPS, MIN_NORM, MAX_NORM = tl.constexpr(_EPS), tl.constexpr(_MIN_NORM), tl.constexpr(_MAX_NORM)


@triton.jit(
    do_not_specialize=["num_rows", "num_padded"],
    do_not_specialize_on_alignment=["first_ptr", "second_ptr"],
)
def margin_kernel(
    # tensors: (B,), scratch; states, 0-d, read and, with AVERAGE, updated
    known_ptr, scratch_ptr, first_ptr, second_ptr,
    # out: saved, numbers, (B,), 0-d bool
    saved_ptr, numbers_ptr, cos_y_ptr, fits_ptr,
    # run-time scalars: of the margin, its state, N
    num_rows, num_padded, n0, n1, n2, momentum, linear,
    # specialisation: of T, of the state, what training does to it, whether it is N's coefficient
    KIND: tl.constexpr, NUM_STATES: tl.constexpr, AVERAGE: tl.constexpr, STATE_IS_LINEAR: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Threshold, T and T' of all rows, after the state has taken them in; grid (1,)."""
    count = tl.zeros((BLOCK,), dtype=tl.int32)
    wrong = tl.zeros((BLOCK,), dtype=tl.int32)
    for start in range(0, num_rows, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        known = tl.load(known_ptr + rows, mask=rows < num_rows, other=-1)
        count += (known != -1).to(tl.int32)
        wrong += (known == WRONG).to(tl.int32)
    num_valid = tl.sum(count, axis=0).to(tl.float32)
    tl.store(fits_ptr, tl.sum(wrong, axis=0) == 0)
    tl.store(numbers_ptr + NUM_VALID, num_valid)

    first, second = 0.0, 1.0
    if NUM_STATES > 0:
        first = tl.load(first_ptr)
    if NUM_STATES > 1:
        second = tl.load(second_ptr)
    if AVERAGE == COSINES:
        mean, _ = moments(
            known_ptr, scratch_ptr + COS * num_padded, num_rows, num_valid, AVERAGE, BLOCK
        )
        first = folded(first, mean, momentum, num_valid)
        tl.store(first_ptr, first)
    if AVERAGE == LENGTHS:
        mean, std = moments(
            known_ptr, scratch_ptr + NORM * num_padded, num_rows, num_valid, AVERAGE, BLOCK
        )
        first = folded(first, mean, momentum, num_valid)
        second = folded(second, std, momentum, num_valid)
        tl.store(first_ptr, first)
        tl.store(second_ptr, second)
    if NUM_STATES > 0:
        tl.store(numbers_ptr + STATE, first)
    if NUM_STATES > 1:
        tl.store(numbers_ptr + STATE + 1, second)
    if STATE_IS_LINEAR:
        linear = first
    tl.store(numbers_ptr + LINEAR, linear)

    for start in range(0, num_rows, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        mask = rows < num_rows
        is_valid = tl.load(known_ptr + rows, mask=mask, other=-1) != -1
        cos = tl.load(scratch_ptr + COS * num_padded + rows, mask=mask, other=0.0)
        norm = tl.load(scratch_ptr + NORM * num_padded + rows, mask=mask, other=0.0)
        value, slope, threshold = target(cos, norm, first, second, n0, n1, n2, KIND)
        # Above infinity no negative is hard: an ignored row counts in no statistics.
        threshold = tl.where(is_valid, threshold, INFINITE)
        tl.store(saved_ptr + THRESHOLD * num_padded + rows, threshold, mask=mask)
        tl.store(scratch_ptr + TARGET * num_padded + rows, value, mask=mask)
        tl.store(scratch_ptr + SLOPE * num_padded + rows, slope, mask=mask)
        tl.store(cos_y_ptr + rows, tl.where(is_valid, cos, float("nan")), mask=mask)


@triton.jit
def moments(known_ptr, values_ptr, num_rows, num_valid, AVERAGE: tl.constexpr, BLOCK: tl.constexpr):
    """Mean of the valid rows' values and, of LENGTHS, bounded as AdaFace has them, the deviation."""
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, num_rows, BLOCK):
        values, is_valid = row_values(known_ptr, values_ptr, start, num_rows, AVERAGE, BLOCK)
        total += values * is_valid
    mean = tl.sum(total, axis=0) / tl.maximum(num_valid, 1.0)
    squares = tl.zeros((BLOCK,), dtype=tl.float32)
    if AVERAGE == LENGTHS:
        for start in range(0, num_rows, BLOCK):
            values, is_valid = row_values(known_ptr, values_ptr, start, num_rows, AVERAGE, BLOCK)
            squares += (values - mean) * (values - mean) * is_valid
    # Of a single row it is not finite, and left out.
    return mean, tl.sqrt(tl.sum(squares, axis=0) / (num_valid - 1.0))


@triton.jit
def row_values(known_ptr, values_ptr, start, num_rows, AVERAGE: tl.constexpr, BLOCK: tl.constexpr):
    """A block's values, and 1 where a row is valid."""
    rows = start + tl.arange(0, BLOCK)
    mask = rows < num_rows
    values = tl.load(values_ptr + rows, mask=mask, other=0.0)
    if AVERAGE == LENGTHS:
        values = clamped(values, MIN_NORM, MAX_NORM)
    known = tl.load(known_ptr + rows, mask=mask, other=-1)
    return values, (known != -1).to(tl.float32)


@triton.jit
def folded(average, value, momentum, num_valid):
    """See `margins.base.fold_in`: the average stays if no row is valid or the value is not finite."""
    usable = (num_valid > 0.0) & (tl.abs(value) < INFINITE)
    return average + tl.where(usable, momentum * (value - average), 0.0)


@triton.jit
def target(cos, norm, mean, std, n0, n1, n2, KIND: tl.constexpr):
    """T, T' and the threshold; `n0` to `n2` are `form.Form.numbers`, mean and std AdaFace's state."""
    # (1 - c)(1 + c) keeps the digits that 1 - c^2 cancels near |c| = 1.
    square = (1.0 - cos) * (1.0 + cos)
    bounded = square < LEAST_SQUARE
    sin = tl.sqrt(tl.where(bounded, LEAST_SQUARE, square))
    if KIND == SHIFT:
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
