"""Kernels of one program for the whole batch: the reduced loss, statistics, factors of the backward.

Sums have a fixed order. a and v are divided by their largest magnitude, so that they fit every
operand dtype.
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.slots import (
    LENGTH_FACTOR,
    LSE_2,
    NUM_VALID,
    OF_LENGTH,
    THRESHOLD,
    TOTAL,
    UNSCALE,
    A,
    V,
)
from fusedface.kernels.gpu.tile import INFINITE, LOG2_E, threshold_step
from fusedface.kernels.gpu.weighting import weigh_rows

SMALLEST = tl.constexpr(
    2.0**-112
)  # a divisor when every gradient is zero; float16 has 2^12 over it


@triton.jit(
    do_not_specialize=["num_rows", "num_padded"], do_not_specialize_on_alignment=["bound_ptr"]
)
def reduce_kernel(
    # tensors: (B,); in and out: (B,), saved, numbers; the state of the weights, 0-d
    known_ptr, loss_ptr, saved_ptr, numbers_ptr, bound_ptr,
    # out: 0-d, (4 or, with a length, 5, padded B)
    reduced_ptr, factors_ptr,
    num_rows, num_padded, boost, first_share, growth,
    MEAN: tl.constexpr, IS_KEPT: tl.constexpr, WITH_LENGTH: tl.constexpr,
    # the weights of the samples: their kind, whether their state takes the batch in, where it is noted
    WEIGHTING: tl.constexpr, LEARNS: tl.constexpr, BOUND: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Weights of the samples, the sum or the mean of the losses, the factors of its gradient; grid (1,)."""
    if WEIGHTING:
        weigh_rows(
            known_ptr, loss_ptr, saved_ptr, bound_ptr, numbers_ptr + BOUND, num_rows, num_padded,
            first_share, growth, WEIGHTING, LEARNS, WITH_LENGTH, BLOCK,
        )  # fmt: skip
    count = 1.0
    if MEAN:
        count = tl.maximum(tl.load(numbers_ptr + NUM_VALID), 1.0)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, num_rows, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        total += tl.load(loss_ptr + rows, mask=rows < num_rows, other=0.0)
    tl.store(reduced_ptr, tl.sum(total, axis=0) / count)
    write_factors(
        saved_ptr, saved_ptr, factors_ptr, numbers_ptr + UNSCALE, num_rows, num_padded, 0, 1.0 / count,
        boost, False, IS_KEPT, WITH_LENGTH, BLOCK,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows"])
def statistics_kernel(
    # tensors: (5, B), (B,)
    stats_ptr, cos_y_ptr,
    # out: smallest, mean and largest modulation (3,); (B,) int64 and bool
    modulation_ptr, num_hard_ptr, correct_ptr,
    num_rows,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Statistics of the batch, for those who read them; grid (1,)."""
    count = tl.zeros((BLOCK,), dtype=tl.float32)
    slopes = tl.zeros((BLOCK,), dtype=tl.float32)
    least = tl.full((BLOCK,), INFINITE, dtype=tl.float32)
    most = tl.full((BLOCK,), -INFINITE, dtype=tl.float32)
    for start in range(0, num_rows, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        mask = rows < num_rows
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
    # out: (4 or, with a length, 5, padded B), 0-d, 0-d
    factors_ptr, unscale_ptr, outer_ptr,
    num_rows, num_padded, row_stride, boost,
    MEAN: tl.constexpr, OF_LOSS: tl.constexpr, OF_ROWS: tl.constexpr, IS_KEPT: tl.constexpr,
    WITH_LENGTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The factors of the rows where not only the reduced loss has a gradient; grid (1,)."""
    tl.store(outer_ptr, 1.0)
    common = 0.0
    if OF_LOSS:
        common = tl.load(d_loss_ptr).to(tl.float32)
        if MEAN:
            common = common / tl.maximum(tl.load(numbers_ptr + NUM_VALID), 1.0)
    write_factors(
        saved_ptr, d_losses_ptr, factors_ptr, unscale_ptr, num_rows, num_padded, row_stride, common, boost,
        OF_ROWS, IS_KEPT, WITH_LENGTH, BLOCK,
    )  # fmt: skip


@triton.jit
def write_factors(
    saved_ptr, d_losses_ptr, factors_ptr, unscale_ptr, num_rows, num_padded, row_stride, common, boost,
    OF_ROWS: tl.constexpr, IS_KEPT: tl.constexpr, WITH_LENGTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`row_factors_kernel` from what `finish_kernel` saved; BLOCK divides padded B.

    For kept exponentials only v and f = a over their sum. With a length, its gradient, which is not scaled.
    """
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
        if IS_KEPT:
            a = a / tl.load(saved_ptr + TOTAL * num_padded + rows, mask=mask, other=1.0)
        else:
            lse_2 = tl.load(saved_ptr + LSE_2 * num_padded + rows, mask=mask, other=0.0)
            threshold = tl.load(
                saved_ptr + THRESHOLD * num_padded + rows, mask=mask, other=INFINITE
            )
            tl.store(factors_ptr + rows, threshold_step(threshold))
            tl.store(factors_ptr + num_padded + rows, tl.log2(tl.abs(a)) - lse_2)
        tl.store(factors_ptr + 2 * num_padded + rows, v)
        tl.store(factors_ptr + 3 * num_padded + rows, a)
        if WITH_LENGTH:
            gradient = upstream(d_losses_ptr, rows, mask, row_stride, common, OF_ROWS)
            of_length = tl.load(saved_ptr + OF_LENGTH * num_padded + rows, mask=mask, other=0.0)
            tl.store(factors_ptr + LENGTH_FACTOR * num_padded + rows, of_length * gradient)


@triton.jit
def weighed(
    saved_ptr, d_losses_ptr, start, num_rows, num_padded, row_stride, common,
    OF_ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """a and v of a block of rows, times the gradient in their losses; 0 past the last row."""
    rows = start + tl.arange(0, BLOCK)
    mask = rows < num_rows
    gradient = upstream(d_losses_ptr, rows, mask, row_stride, common, OF_ROWS)
    a = tl.load(saved_ptr + A * num_padded + rows, mask=mask, other=0.0)
    v = tl.load(saved_ptr + V * num_padded + rows, mask=mask, other=0.0)
    return a * gradient, v * gradient


@triton.jit
def upstream(d_losses_ptr, rows, mask, row_stride, common, OF_ROWS: tl.constexpr):
    """The gradient in the rows' losses: one of all, and with OF_ROWS their own."""
    gradient = common
    if OF_ROWS:
        d_losses = tl.load(d_losses_ptr + rows.to(tl.int64) * row_stride, mask=mask, other=0.0)
        gradient = common + d_losses.to(tl.float32)
    return gradient


@triton.jit(do_not_specialize=["num_rows", "num_padded"])
def row_factors_kernel(
    # (B,), (B,), (B,), (B,), (B,) -> (4, padded B), 0-d, 0-d
    lse_ptr, d_lse_ptr, d_cos_y_ptr, labels_ptr, threshold_ptr, factors_ptr, unscale_ptr, outer_ptr,
    num_rows, num_padded, scale, boost,
    BLOCK_B: tl.constexpr,
):  # fmt: skip
    """The factors of a row in the backward; grid (1,), padded B is a multiple of BLOCK_B.

    In order: the threshold for `hard_step`, log2 |a| - log2(e) lse, v and a. a and v are divided by their
    largest magnitude and multiplied by `boost`. Past the last row nothing is hard, and a and v are 0.
    """
    tl.store(outer_ptr, 1.0)
    largest = tl.zeros((BLOCK_B,), dtype=tl.float32)
    for start in range(0, num_rows, BLOCK_B):
        rows = start + tl.arange(0, BLOCK_B)
        mask = rows < num_rows
        a = scale * tl.load(d_lse_ptr + rows, mask=mask, other=0.0)
        v = tl.load(d_cos_y_ptr + rows, mask=mask, other=0.0)
        largest = tl.maximum(largest, tl.maximum(tl.abs(a), tl.abs(v)))
    unscale = tl.maximum(tl.max(largest, axis=0), SMALLEST)
    tl.store(unscale_ptr, unscale / boost)
    factor = boost / unscale
    for start in range(0, num_padded, BLOCK_B):
        rows = start + tl.arange(0, BLOCK_B)
        mask = rows < num_rows
        known = tl.load(labels_ptr + rows, mask=mask, other=-1) >= 0
        a = scale * tl.load(d_lse_ptr + rows, mask=mask, other=0.0) * factor
        v = tl.load(d_cos_y_ptr + rows, mask=mask, other=0.0) * factor
        lse = tl.load(lse_ptr + rows, mask=mask, other=0.0)
        threshold = tl.load(threshold_ptr + rows, mask=mask, other=INFINITE)
        tl.store(factors_ptr + rows, threshold_step(threshold))
        tl.store(factors_ptr + num_padded + rows, tl.log2(tl.abs(a)) - lse * LOG2_E)
        tl.store(factors_ptr + 2 * num_padded + rows, tl.where(known, v, 0.0))
        tl.store(factors_ptr + 3 * num_padded + rows, a)
