"""The margin of all rows: the state that takes the batch in, then T, its slope T' and the threshold.

Unit class centres are made in the same launch.

The formulae are those of kernels/margins, which are the specification (target.py). Every branch is chosen
so that a NaN stays one.
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.rows import write_unit_rows
from fusedface.kernels.gpu.slots import (
    COS,
    LENGTH_SLOPE,
    LINEAR,
    NORM,
    NUM_VALID,
    PENALTY,
    PENALTY_SLOPE,
    SLOPE,
    STATE,
    TARGET,
    THRESHOLD,
    WRONG,
)
from fusedface.kernels.gpu.target import (
    CLASS_SHIFT,
    EASY_LENGTH_ARC,
    LENGTH_ARC,
    MAX_NORM,
    MIN_NORM,
    clamped,
    length_target,
    target,
)
from fusedface.kernels.gpu.tile import INFINITE
from fusedface.kernels.margins.form import Average

NOTHING, COSINES, LENGTHS = (tl.constexpr(average.value) for average in Average)


@triton.jit(
    do_not_specialize=["num_rows", "num_padded", "num_classes"],
    do_not_specialize_on_alignment=["first_ptr", "second_ptr", "margins_ptr"],
)
def margin_kernel(
    # tensors: (B,), scratch; states, 0-d, read and, with AVERAGE, updated; margins of the classes
    known_ptr, scratch_ptr, first_ptr, second_ptr, margins_ptr,
    # out: saved, numbers, (B,), 0-d bool
    saved_ptr, numbers_ptr, cos_y_ptr, fits_ptr,
    # class centres (C, dim); out: unit rows (padded C, DIM), (padded C,)
    w_ptr, unit_ptr, inverse_ptr,
    # run-time scalars: of the margin, its state, N; of the class centres
    num_rows, num_padded, n0, n1, n2, n3, n4, momentum, linear,
    num_classes, dim, row_stride, column_stride,
    # specialisation: of T, of the state, what training does to it, whether it is N's coefficient
    KIND: tl.constexpr, NUM_STATES: tl.constexpr, AVERAGE: tl.constexpr, STATE_IS_LINEAR: tl.constexpr,
    BLOCK: tl.constexpr,
    # specialisation: of the unit rows, as of `unit_rows_kernel`
    DIM: tl.constexpr, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Threshold, T and T' of all rows; and unit class centres, where nobody has them.

    Grid (1, and padded C / BLOCK_N for the class centres,): two kernels in one launch. The work on the rows
    is that of one program, and takes no time next to that on the class centres.
    """
    if tl.program_id(0) > 0:
        write_unit_rows(
            w_ptr, unit_ptr, inverse_ptr, tl.program_id(0) - 1, num_classes, dim, row_stride, column_stride,
            DIM, PRECISION, BLOCK_D, BLOCK_N,
        )  # fmt: skip
    else:
        margin_of_rows(
            known_ptr, scratch_ptr, first_ptr, second_ptr, margins_ptr,
            saved_ptr, numbers_ptr, cos_y_ptr, fits_ptr,
            num_rows, num_padded, n0, n1, n2, n3, n4, momentum, linear,
            KIND, NUM_STATES, AVERAGE, STATE_IS_LINEAR, BLOCK,
        )  # fmt: skip


@triton.jit
def margin_of_rows(
    known_ptr, scratch_ptr, first_ptr, second_ptr, margins_ptr,
    saved_ptr, numbers_ptr, cos_y_ptr, fits_ptr,
    num_rows, num_padded, n0, n1, n2, n3, n4, momentum, linear,
    KIND: tl.constexpr, NUM_STATES: tl.constexpr, AVERAGE: tl.constexpr, STATE_IS_LINEAR: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Threshold, T and T' of all rows, after the state has taken them in."""
    num_valid, num_wrong = counted(known_ptr, num_rows, BLOCK)  # pyright: ignore[reportGeneralTypeIssues]
    tl.store(fits_ptr, num_wrong == 0)
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
        known = tl.load(known_ptr + rows, mask=mask, other=-1)
        is_valid = known != -1
        cos = tl.load(scratch_ptr + COS * num_padded + rows, mask=mask, other=0.0)
        norm = tl.load(scratch_ptr + NORM * num_padded + rows, mask=mask, other=0.0)
        if KIND >= LENGTH_ARC:
            value, slope, of_length, penalty, of_penalty = length_target(
                cos, norm, n0, n1, n2, n3, n4, KIND == EASY_LENGTH_ARC
            )
            threshold = value
            tl.store(scratch_ptr + LENGTH_SLOPE * num_padded + rows, of_length, mask=mask)
            tl.store(scratch_ptr + PENALTY * num_padded + rows, penalty, mask=mask)
            tl.store(scratch_ptr + PENALTY_SLOPE * num_padded + rows, of_penalty, mask=mask)
        else:
            shift = n0
            if KIND == CLASS_SHIFT:
                shift = tl.load(margins_ptr + known, mask=known >= 0, other=0.0)
            value, slope, threshold = target(cos, norm, first, second, shift, n1, n2, KIND)
        # Above infinity no negative is hard: an ignored row counts in no statistics.
        threshold = tl.where(is_valid, threshold, INFINITE)
        tl.store(saved_ptr + THRESHOLD * num_padded + rows, threshold, mask=mask)
        tl.store(scratch_ptr + TARGET * num_padded + rows, value, mask=mask)
        tl.store(scratch_ptr + SLOPE * num_padded + rows, slope, mask=mask)
        tl.store(cos_y_ptr + rows, tl.where(is_valid, cos, float("nan")), mask=mask)


@triton.jit
def counted(known_ptr, num_rows, BLOCK: tl.constexpr):
    """The number of valid rows, as float32, and that of wrong labels."""
    count = tl.zeros((BLOCK,), dtype=tl.int32)
    wrong = tl.zeros((BLOCK,), dtype=tl.int32)
    for start in range(0, num_rows, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        known = tl.load(known_ptr + rows, mask=rows < num_rows, other=-1)
        count += (known != -1).to(tl.int32)
        wrong += (known == WRONG).to(tl.int32)
    return tl.sum(count, axis=0).to(tl.float32), tl.sum(wrong, axis=0)


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
