"""The splits of the classes put together: log-sum-exp, statistics and direction of each row, and its loss.

    loss = f(e) = softplus(e) (1 - p)^gamma     e = lse - s T     dloss/dlse = f'     dloss/dc_y = -s f' T'

A row that does not suit the fixed reference (log_sum_exp.py) is summed again here, over all classes.
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.slots import (
    LENGTH_SLOPE,
    LINEAR,
    LSE_2,
    OF_LENGTH,
    PENALTY,
    PENALTY_SLOPE,
    SLOPE,
    TARGET,
    THRESHOLD,
    TOTAL,
    A,
    V,
)
from fusedface.kernels.gpu.tile import (
    ABSENT,
    INFINITE,
    NO_LARGEST,
    PLAIN,
    QUADRATIC,
    as_operand,
    hard_step,
    inverse_length,
    lifts,
    log1p_of,
    logits,
    most_lift,
    threshold_step,
)

LOG_2 = tl.constexpr(0.6931471805599453)
# A larger sum of exponentials relative to a fixed reference may be infinite.
LARGEST_TOTAL = tl.constexpr(2.0**126)
AGAIN_C = tl.constexpr(8)  # classes at a time, for a row that is summed again
# Times any T' (below 2^20, margins/form.py) it is still a number of half precision.
LARGEST_KEPT = tl.constexpr(2.0**106)


@triton.jit(do_not_specialize=["num_rows", "num_classes", "num_splits"])
def combine_kernel(
    # tensors: (6, num_splits, B), (num_splits, B, DIM)
    totals_ptr, weighted_ptr,
    # tensors, for a row that is summed again: unit rows (B, DIM), those of the class centres (C, DIM) or,
    # without IS_UNIT, the class centres (C, dim); (B,), (B,), 0-d
    x_ptr, w_ptr, labels_ptr, threshold_ptr, linear_ptr,
    # out: (B,), (5, B) as in NegativeStats, (B, DIM)
    lse_ptr, stats_ptr, direction_ptr,
    # run-time scalars
    num_rows, num_classes, num_splits, dim, w_row_stride, w_column_stride, shortest,
    scale, square, bend, constant, least_total,
    # specialisation
    DIM: tl.constexpr, MODE: tl.constexpr, SHIFT: tl.constexpr, FIXED: tl.constexpr,
    WITH_DIRECTION: tl.constexpr, IS_UNIT: tl.constexpr, PRECISION: tl.constexpr,
    # tiling; BLOCK_S is at least num_splits, BLOCK_D at least DIM
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Add up the splits of one row; grid (B,)."""
    row = tl.program_id(0).to(tl.int64)
    line = tl.load(linear_ptr) - 1.0
    # A type checker sees device functions as they are outside of kernels, where they return nothing.
    largest, total, direction = summed_splits(  # pyright: ignore[reportGeneralTypeIssues]
        totals_ptr, weighted_ptr, row, num_rows, num_splits, DIM, WITH_DIRECTION, BLOCK_S, BLOCK_D
    )
    if FIXED:  # noqa: SIM102  (known when compiling)
        if (total < least_total) | (total > LARGEST_TOTAL):
            largest, total, direction = summed_again(
                x_ptr, w_ptr, row, tl.load(labels_ptr + row), tl.load(threshold_ptr + row),
                num_classes, dim, w_row_stride, w_column_stride, shortest,
                scale, square, bend, line, constant, DIM, MODE, IS_UNIT, PRECISION, BLOCK_D,
            )  # fmt: skip
    tl.store(lse_ptr + row, (largest + tl.log2(total) - SHIFT) * LOG_2)
    if WITH_DIRECTION:
        offs_d = tl.arange(0, BLOCK_D)
        tl.store(direction_ptr + row * DIM + offs_d, direction / total, mask=offs_d < DIM)
    store_stats(totals_ptr, stats_ptr, row, num_rows, num_splits, bend, line, MODE, BLOCK_S)


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
    # out: (B,), (5, B) as in NegativeStats, (B, DIM); in and out: with KEEP, (padded B, pitch)
    loss_ptr, stats_ptr, direction_ptr, kept_ptr,
    # run-time scalars
    num_rows, num_padded, num_classes, num_splits, pitch, scale, square, bend, constant, least_total,
    s, gamma, lse_shift,
    # specialisation
    DIM: tl.constexpr, MODE: tl.constexpr, SHIFT: tl.constexpr, FIXED: tl.constexpr,
    WITH_DIRECTION: tl.constexpr, KEEP: tl.constexpr, EXACT: tl.constexpr, FOCAL: tl.constexpr,
    WITH_LENGTH: tl.constexpr,
    # tiling; BLOCK_S is at least num_splits, BLOCK_D at least DIM
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Add up the splits of one row, and its loss; grid (B,)."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(known_ptr + row)
    line = tl.load(numbers_ptr + LINEAR) - 1.0
    largest, total, direction = summed_splits(  # pyright: ignore[reportGeneralTypeIssues]
        totals_ptr, weighted_ptr, row, num_rows, num_splits, DIM, WITH_DIRECTION, BLOCK_S, BLOCK_D
    )
    if FIXED:  # noqa: SIM102  (known when compiling)
        if (total < least_total) | (total > (LARGEST_KEPT if KEEP else LARGEST_TOTAL)):
            threshold = tl.load(saved_ptr + THRESHOLD * num_padded + row)
            largest, total, direction = summed_again(
                x_ptr, w_ptr, row, label, threshold,
                num_classes, DIM, DIM, 1, 0.0,
                scale, square, bend, line, constant, DIM, MODE, True, "", BLOCK_D,
            )  # fmt: skip
            if KEEP:
                keep_again(
                    kept_ptr, pitch, x_ptr, w_ptr, row, label, threshold, largest, num_classes,
                    scale, square, bend, line, constant, DIM, MODE, BLOCK_D,
                )  # fmt: skip
    lse_2 = largest + tl.log2(total) - SHIFT
    tl.store(saved_ptr + LSE_2 * num_padded + row, lse_2)
    if WITH_DIRECTION:
        offs_d = tl.arange(0, BLOCK_D)
        tl.store(direction_ptr + row * DIM + offs_d, direction / total, mask=offs_d < DIM)
    store_stats(totals_ptr, stats_ptr, row, num_rows, num_splits, bend, line, MODE, BLOCK_S)

    target = tl.load(scratch_ptr + TARGET * num_padded + row)
    excess = lse_2 * LOG_2 + (lse_shift - s * target)
    loss, slope = cross_entropy(excess, gamma, FOCAL)
    is_valid = label != -1
    a = tl.where(is_valid, s * slope, 0.0)
    target_slope = 1.0
    if EXACT:
        target_slope = tl.load(scratch_ptr + SLOPE * num_padded + row)
    v = tl.where(is_valid, -a * target_slope, 0.0)
    if KEEP:
        tl.store(saved_ptr + TOTAL * num_padded + row, total)
        of_target = (-target_slope * total).to(kept_ptr.dtype.element_ty)
        tl.store(kept_ptr + row * pitch + label, of_target, mask=label >= 0)
    if WITH_LENGTH:
        penalty, of_length = length_terms(scratch_ptr + row, num_padded, a, EXACT)
        loss += penalty
        tl.store(saved_ptr + OF_LENGTH * num_padded + row, tl.where(is_valid, of_length, 0.0))
    tl.store(loss_ptr + row, tl.where(is_valid, loss, 0.0))
    tl.store(saved_ptr + A * num_padded + row, a)
    tl.store(saved_ptr + V * num_padded + row, v)


@triton.jit
def length_terms(row_ptr, num_padded, a, EXACT: tl.constexpr):
    """The penalty of a row, and the gradient of its loss in the length; `a` is s times the loss's slope."""
    penalty = tl.load(row_ptr + PENALTY * num_padded)
    of_length = tl.load(row_ptr + PENALTY_SLOPE * num_padded)
    if EXACT:
        of_length -= a * tl.load(row_ptr + LENGTH_SLOPE * num_padded)
    return penalty, of_length


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


@triton.jit
def summed_splits(
    totals_ptr, weighted_ptr, row, num_rows, num_splits,
    DIM: tl.constexpr, WITH_DIRECTION: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Reference, sum and weighted sum of a row over the splits."""
    splits = tl.arange(0, BLOCK_S)
    mask = splits < num_splits
    ptrs = totals_ptr + splits * num_rows + row
    largests = tl.load(ptrs, mask=mask, other=NO_LARGEST)
    largest = tl.max(largests, axis=0)
    totals = tl.load(ptrs + num_splits * num_rows, mask=mask, other=0.0)
    total = tl.sum(totals * tl.exp2(largests - largest), axis=0)
    direction = tl.zeros((BLOCK_D,), dtype=tl.float32)
    if WITH_DIRECTION:
        offs_d = tl.arange(0, BLOCK_D)
        for i in tl.range(0, num_splits):
            share = tl.exp2(tl.load(totals_ptr + i * num_rows + row) - largest)
            part_ptrs = weighted_ptr + (i * num_rows + row) * DIM + offs_d
            direction += tl.load(part_ptrs, mask=offs_d < DIM, other=0.0) * share
    return largest, total, direction


@triton.jit
def summed_again(
    x_ptr, w_ptr, row, label, threshold, num_classes, dim, w_row_stride, w_column_stride, shortest,
    scale, square, bend, line, constant,
    DIM: tl.constexpr, MODE: tl.constexpr, IS_UNIT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Reference, sum and weighted sum of a row over all classes, with the running maximum."""
    offs_c, offs_d = tl.arange(0, AGAIN_C), tl.arange(0, BLOCK_D)
    mask_d = offs_d < DIM
    x = tl.load(x_ptr + row * DIM + offs_d, mask=mask_d, other=0.0).to(tl.float32)
    step = threshold_step(tl.full((AGAIN_C,), 0.0, tl.float32) + threshold)
    largest = tl.full((), NO_LARGEST, tl.float32)
    total = tl.full((), 0.0, tl.float32)
    direction = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for start in tl.range(0, num_classes, AGAIN_C):
        columns = start + offs_c
        if IS_UNIT:
            w_ptrs = w_ptr + columns.to(tl.int64)[:, None] * DIM + offs_d[None, :]
            w = tl.load(w_ptrs, mask=mask_d[None, :], other=0.0).to(tl.float32)
        else:
            w_ptrs = w_ptr + columns.to(tl.int64)[:, None] * w_row_stride
            w_ptrs += offs_d.to(tl.int64)[None, :] * w_column_stride
            mask = (columns < num_classes)[:, None] & (offs_d < dim)[None, :]
            w = tl.load(w_ptrs, mask=mask, other=0.0).to(tl.float32)
            inverse = inverse_length(tl.sum(w * w, axis=1), shortest)
            w = as_operand(w * inverse[:, None], x_ptr.dtype.element_ty, PRECISION).to(tl.float32)
        cos = tl.sum(w * x[None, :], axis=1)
        cos = tl.where((columns == label) | (columns >= num_classes), ABSENT, cos)
        hard = hard_step(cos, step)
        z = logits(cos, hard, 0.0, scale, square, line, constant, MODE)
        new_largest = tl.maximum(largest, tl.max(z, axis=0))
        p = tl.exp2(z - new_largest)
        rescale = tl.exp2(largest - new_largest)
        largest = new_largest
        total = total * rescale + tl.sum(p, axis=0)
        if MODE != PLAIN:
            p = p * lifts(cos, hard, bend, line, MODE) + p
        direction = direction * rescale + tl.sum(p[:, None] * w, axis=0)
    return largest, total, direction


@triton.jit
def keep_again(
    kept_ptr, pitch, x_ptr, w_ptr, row, label, threshold, reference, num_classes,
    scale, square, bend, line, constant, DIM: tl.constexpr, MODE: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Write the exponentials of a row once more, with another reference."""
    offs_c, offs_d = tl.arange(0, AGAIN_C), tl.arange(0, BLOCK_D)
    mask_d = offs_d < DIM
    x = tl.load(x_ptr + row * DIM + offs_d, mask=mask_d, other=0.0).to(tl.float32)
    step = threshold_step(tl.full((AGAIN_C,), 0.0, tl.float32) + threshold)
    for start in tl.range(0, num_classes, AGAIN_C):
        columns = start + offs_c
        w_ptrs = w_ptr + columns.to(tl.int64)[:, None] * DIM + offs_d[None, :]
        w = tl.load(w_ptrs, mask=mask_d[None, :], other=0.0).to(tl.float32)
        cos = tl.sum(w * x[None, :], axis=1)
        cos = tl.where((columns == label) | (columns >= num_classes), ABSENT, cos)
        hard = hard_step(cos, step)
        p = tl.exp2(logits(cos, hard, -reference, scale, square, line, constant, MODE))
        if MODE != PLAIN:
            p = p * lifts(cos, hard, bend, line, MODE) + p
        tl.store(kept_ptr + row * pitch + columns, p.to(kept_ptr.dtype.element_ty))


@triton.jit
def stats_of_splits(totals_ptr, row, num_rows, num_splits, BLOCK_S: tl.constexpr):
    """The last four totals of a row over the splits."""
    splits = tl.arange(0, BLOCK_S)
    mask = splits < num_splits
    step = num_splits * num_rows
    ptrs = totals_ptr + 2 * step + splits * num_rows + row
    max_cos = tl.max(tl.load(ptrs, mask=mask, other=NO_LARGEST), axis=0)
    num_hard = tl.sum(tl.load(ptrs + step, mask=mask, other=0.0), axis=0)
    least = tl.max(tl.load(ptrs + 2 * step, mask=mask, other=0.0), axis=0)
    sum_lift = tl.sum(tl.load(ptrs + 3 * step, mask=mask, other=0.0), axis=0)
    return max_cos, num_hard, least, sum_lift


@triton.jit
def store_stats(
    totals_ptr, stats_ptr, row, num_rows, num_splits, bend, line,
    MODE: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The statistics of a row over the splits."""
    max_cos, num_hard, least, sum_lift = stats_of_splits(  # pyright: ignore[reportGeneralTypeIssues]
        totals_ptr, row, num_rows, num_splits, BLOCK_S
    )
    if MODE >= QUADRATIC:
        slope_min = most_lift(bend, line) - least + 1.0
        slope_max = bend * max_cos + line + 1.0
        slope_sum = sum_lift + num_hard
    else:
        slope_min = line + 1.0
        slope_max = line + 1.0
        slope_sum = (line + 1.0) * num_hard
    tl.store(stats_ptr + row, max_cos)
    tl.store(stats_ptr + num_rows + row, num_hard)
    tl.store(stats_ptr + 2 * num_rows + row, tl.where(num_hard > 0, slope_min, INFINITE))
    tl.store(stats_ptr + 3 * num_rows + row, tl.where(num_hard > 0, slope_max, -INFINITE))
    tl.store(stats_ptr + 4 * num_rows + row, slope_sum)
