"""The work on B numbers around the pass over the classes, in four small kernels and one for the backward.

    rows_kernel      unit rows, lengths, target cosines, labels as -1 or a class     a program for each row
    margin_kernel    the state, T, T', threshold, linear coefficient of N            one program
    finish_kernel    splits added up, loss and what it is differentiated by          a program for each row
    reduce_kernel    the reduced loss and the batch's statistics                     one program
    factors_kernel   what the backward multiplies each row by                        one program

    loss = f(e) = softplus(e) (1 - p)^gamma     e = lse - s T     dloss/dlse = f'     dloss/dc_y = -s f' T'

Numbers of the rows lie in `saved`, which the backward needs, and in `scratch`; each has the rows that are
named below, of padded B numbers.
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.flash import LARGEST_TOTAL, store_stats, summed_again, summed_splits
from fusedface.kernels.gpu.rows import LOG2_E, SMALLEST, inverse_norm
from fusedface.kernels.gpu.targets import MAX_NORM, MIN_NORM, clamped, log1p_of, target
from fusedface.kernels.gpu.tile import INFINITE, as_operand, threshold_step
from fusedface.kernels.margins.form import Average

LOG_2 = tl.constexpr(0.6931471805599453)
WRONG = tl.constexpr(-2)  # a label that is neither a class nor ignored

# Of `saved`: threshold, lse, then a = s f' and v = -s f' T'.
THRESHOLD, LSE, A, V = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
NUM_SAVED = 4
# Of `scratch`: target cosine, length, T, T'.
COS, NORM, TARGET, SLOPE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
NUM_SCRATCH = 4
# Of `numbers`: the linear coefficient of N, the number of valid rows, the states that were used.
LINEAR, NUM_VALID, STATE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
NUM_NUMBERS = 4
NOTHING, COSINES, LENGTHS = (tl.constexpr(average.value) for average in Average)


@triton.jit(
    do_not_specialize=["num_rows", "num_padded", "num_classes", "ignore_index"],
    do_not_specialize_on_alignment=["labels_ptr"],
)
def rows_kernel(
    # tensors: (B, dim), (C, dim), (B,)
    x_ptr, w_ptr, labels_ptr,
    # out: (padded B, DIM), (padded B,), (B,), scratch
    unit_ptr, inverse_ptr, known_ptr, scratch_ptr,
    # run-time scalars
    num_rows, num_padded, num_classes, ignore_index, dim,
    label_stride, x_row_stride, x_column_stride, w_row_stride, w_column_stride,
    # specialisation; BLOCK_D is at least DIM
    DIM: tl.constexpr, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Unit rows, lengths, target cosines (of class 0 without one), labels; grid (padded B / BLOCK_N,)."""
    rows = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    is_row = rows < num_rows
    labels = tl.load(labels_ptr + rows * label_stride, mask=is_row, other=0).to(tl.int64)
    wrong = (labels < 0) | (labels >= num_classes)
    known = tl.where(labels == ignore_index, -1, tl.where(wrong, WRONG, labels))
    tl.store(known_ptr + rows, known, mask=is_row)
    columns = tl.maximum(known, 0)

    offs_d = tl.arange(0, BLOCK_D)
    mask = is_row[:, None] & (offs_d < dim)[None, :]
    x_ptrs = x_ptr + rows[:, None] * x_row_stride + offs_d[None, :] * x_column_stride
    w_ptrs = w_ptr + columns[:, None] * w_row_stride + offs_d[None, :] * w_column_stride
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    w = tl.load(w_ptrs, mask=mask, other=0.0).to(tl.float32)
    squares = tl.sum(x * x, axis=1)
    inverse = inverse_norm(squares, x_ptr.dtype.element_ty)
    inverse_w = inverse_norm(tl.sum(w * w, axis=1), w_ptr.dtype.element_ty)
    unit = as_operand(x * inverse[:, None], unit_ptr.dtype.element_ty, PRECISION)
    unit_ptrs = unit_ptr + rows[:, None] * DIM + offs_d[None, :]
    tl.store(unit_ptrs, unit, mask=(offs_d < DIM)[None, :])
    tl.store(inverse_ptr + rows, inverse)
    cos = tl.sum(x * w, axis=1) * (inverse * inverse_w)
    tl.store(scratch_ptr + COS * num_padded + rows, cos)
    tl.store(scratch_ptr + NORM * num_padded + rows, tl.sqrt(squares))


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
    """`margins.base.fold_in`: the average as it was if no row is valid or the value is not finite."""
    usable = (num_valid > 0.0) & (tl.abs(value) < INFINITE)
    return average + tl.where(usable, momentum * (value - average), 0.0)


@triton.jit(do_not_specialize=["num_rows", "num_padded", "num_classes", "num_splits"])
def finish_kernel(
    # tensors: (6, num_splits, B), (num_splits, B, DIM)
    totals_ptr, weighted_ptr,
    # tensors, for a row that is summed again: unit rows (B, DIM) and (C, DIM); (B,)
    x_ptr, w_ptr, known_ptr,
    # tensors: scratch, numbers
    scratch_ptr, numbers_ptr,
    # in and out: saved
    saved_ptr,
    # out: (B,), (5, B) as in NegativeStats, (B, DIM)
    loss_ptr, stats_ptr, direction_ptr,
    # run-time scalars
    num_rows, num_padded, num_classes, num_splits, scale, square, bend, constant, least_total,
    s, gamma,
    # specialisation
    DIM: tl.constexpr, MODE: tl.constexpr, SHIFT: tl.constexpr, FIXED: tl.constexpr,
    WITH_DIRECTION: tl.constexpr, EXACT: tl.constexpr, FOCAL: tl.constexpr,
    # tiling; BLOCK_S is at least num_splits, BLOCK_D at least DIM
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Add up the splits of one row, and its loss; grid (B,)."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(known_ptr + row)
    line = tl.load(numbers_ptr + LINEAR) - 1.0
    largest, total, direction = summed_splits(
        totals_ptr, weighted_ptr, row, num_rows, num_splits, DIM, WITH_DIRECTION, BLOCK_S, BLOCK_D
    )
    if FIXED:  # noqa: SIM102  (known when compiling)
        if (total < least_total) | (total > LARGEST_TOTAL):
            largest, total, direction = summed_again(
                x_ptr, w_ptr, row, label, tl.load(saved_ptr + THRESHOLD * num_padded + row),
                num_classes, scale, square, bend, line, constant, DIM, MODE, BLOCK_D,
            )  # fmt: skip
    lse = (largest + tl.log2(total) - SHIFT) * LOG_2
    tl.store(saved_ptr + LSE * num_padded + row, lse)
    if WITH_DIRECTION:
        offs_d = tl.arange(0, BLOCK_D)
        tl.store(direction_ptr + row * DIM + offs_d, direction / total, mask=offs_d < DIM)
    store_stats(totals_ptr, stats_ptr, row, num_rows, num_splits, bend, line, MODE, BLOCK_S)

    loss, slope = cross_entropy(
        lse - s * tl.load(scratch_ptr + TARGET * num_padded + row), gamma, FOCAL
    )
    is_valid = label != -1
    a = tl.where(is_valid, s * slope, 0.0)
    v = -a
    if EXACT:
        v = tl.where(is_valid, v * tl.load(scratch_ptr + SLOPE * num_padded + row), 0.0)
    tl.store(loss_ptr + row, tl.where(is_valid, loss, 0.0))
    tl.store(saved_ptr + A * num_padded + row, a)
    tl.store(saved_ptr + V * num_padded + row, v)


@triton.jit
def cross_entropy(excess, gamma, FOCAL: tl.constexpr):
    """softplus(e) times the focal weight, and its derivative; no digits are lost near 0."""
    y = tl.exp(-tl.abs(excess))
    tail = log1p_of(y)
    larger, smaller = 1.0 / (1.0 + y), y / (1.0 + y)
    is_high = excess > 0.0
    loss = tl.where(is_high, excess, 0.0) + tail
    p = tl.where(is_high, larger, smaller)  # the sigmoid of e
    slope = p
    if FOCAL:
        weight = tl.exp(-gamma * (tl.where(is_high, 0.0, -excess) + tail))
        slope = weight * (p + gamma * loss * tl.where(is_high, smaller, larger))
        loss = loss * weight
    return loss, slope


@triton.jit(do_not_specialize=["num_rows"])
def reduce_kernel(
    # tensors: (B,), (5, B), (B,), numbers
    loss_ptr, stats_ptr, cos_y_ptr, numbers_ptr,
    # out: 0-d, smallest, mean and largest modulation (3,); (B,) int64 and bool
    reduced_ptr, modulation_ptr, num_hard_ptr, correct_ptr,
    num_rows,
    MEAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sum or the mean of the losses, and statistics of the batch; grid (1,)."""
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    count = tl.zeros((BLOCK,), dtype=tl.float32)
    slopes = tl.zeros((BLOCK,), dtype=tl.float32)
    least = tl.full((BLOCK,), INFINITE, dtype=tl.float32)
    most = tl.full((BLOCK,), -INFINITE, dtype=tl.float32)
    for start in range(0, num_rows, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        mask = rows < num_rows
        total += tl.load(loss_ptr + rows, mask=mask, other=0.0)
        max_cos = tl.load(stats_ptr + rows, mask=mask, other=0.0)
        num_hard = tl.load(stats_ptr + num_rows + rows, mask=mask, other=0.0)
        count += num_hard
        low = tl.load(stats_ptr + 2 * num_rows + rows, mask=mask, other=INFINITE)
        high = tl.load(stats_ptr + 3 * num_rows + rows, mask=mask, other=-INFINITE)
        least, most = tl.minimum(least, low), tl.maximum(most, high)
        slopes += tl.load(stats_ptr + 4 * num_rows + rows, mask=mask, other=0.0)
        tl.store(num_hard_ptr + rows, num_hard.to(tl.int64), mask=mask)
        cos_y = tl.load(cos_y_ptr + rows, mask=mask, other=0.0)
        tl.store(correct_ptr + rows, cos_y > max_cos, mask=mask)
    reduced = tl.sum(total, axis=0)
    if MEAN:
        reduced = reduced / tl.maximum(tl.load(numbers_ptr + NUM_VALID), 1.0)
    tl.store(reduced_ptr, reduced)
    num = tl.sum(count, axis=0)
    none = num == 0.0
    tl.store(modulation_ptr, tl.where(none, float("nan"), tl.min(least, axis=0)))
    tl.store(modulation_ptr + 1, tl.where(none, float("nan"), tl.sum(slopes, axis=0) / num))
    tl.store(modulation_ptr + 2, tl.where(none, float("nan"), tl.max(most, axis=0)))


@triton.jit(
    do_not_specialize=["num_rows", "num_padded", "row_stride"],
    do_not_specialize_on_alignment=["d_loss_ptr", "d_losses_ptr"],
)
def factors_kernel(
    # tensors: saved, numbers; gradients in the reduced loss, 0-d, and in those of the rows, (B,)
    saved_ptr, numbers_ptr, d_loss_ptr, d_losses_ptr,
    # out: (4, padded B), 0-d
    factors_ptr, unscale_ptr,
    num_rows, num_padded, row_stride, boost,
    MEAN: tl.constexpr, OF_LOSS: tl.constexpr, OF_ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`rows.row_factors_kernel` from what `finish_kernel` saved; grid (1,), BLOCK divides padded B."""
    common = 0.0
    if OF_LOSS:
        common = tl.load(d_loss_ptr).to(tl.float32)
        if MEAN:
            common = common / tl.maximum(tl.load(numbers_ptr + NUM_VALID), 1.0)
    largest = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, num_rows, BLOCK):
        a, v = weighed(
            saved_ptr, d_losses_ptr, start, num_rows, num_padded, row_stride, common, OF_ROWS, BLOCK
        )
        largest = tl.maximum(largest, tl.maximum(tl.abs(a), tl.abs(v)))
    unscale = tl.maximum(tl.max(largest, axis=0), SMALLEST)
    tl.store(unscale_ptr, unscale / boost)
    factor = boost / unscale
    for start in range(0, num_padded, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        mask = rows < num_rows
        a, v = weighed(
            saved_ptr, d_losses_ptr, start, num_rows, num_padded, row_stride, common, OF_ROWS, BLOCK
        )
        a, v = a * factor, v * factor
        lse = tl.load(saved_ptr + LSE * num_padded + rows, mask=mask, other=0.0)
        threshold = tl.load(saved_ptr + THRESHOLD * num_padded + rows, mask=mask, other=INFINITE)
        tl.store(factors_ptr + rows, threshold_step(threshold))
        tl.store(factors_ptr + num_padded + rows, tl.log2(tl.abs(a)) - lse * LOG2_E)
        tl.store(factors_ptr + 2 * num_padded + rows, v)
        tl.store(factors_ptr + 3 * num_padded + rows, a)


@triton.jit
def weighed(
    saved_ptr, d_losses_ptr, start, num_rows, num_padded, row_stride, common,
    OF_ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """a and v of a block of rows, times the gradient in their losses; 0 past the last row."""
    rows = start + tl.arange(0, BLOCK)
    mask = rows < num_rows
    gradient = common
    if OF_ROWS:
        d_losses = tl.load(d_losses_ptr + rows.to(tl.int64) * row_stride, mask=mask, other=0.0)
        gradient = common + d_losses.to(tl.float32)
    a = tl.load(saved_ptr + A * num_padded + rows, mask=mask, other=0.0)
    v = tl.load(saved_ptr + V * num_padded + rows, mask=mask, other=0.0)
    return a * gradient, v * gradient
