"""D <= 256, forward: one pass over the classes gives the log-sum-exp and the gradient's direction.

    lse_i = log sum_{j != y} e^(s N_ij)      direction_i = sum_{j != y} q_ij N'_ij w_j    docs/losses.md (3)

It is attention with keys = values = class centres: an online softmax over tiles of classes. The classes
are split over programs, each leaving a partial maximum, sum and weighted sum, which `combine_kernel`
adds up in a fixed order. A program owns BLOCK_B rows; neighbours share the tiles of w in L2.

Float16 weights p in [0, 1] would lose what is below 6e-8, so p is carried as 2^SHIFT p, which cancels.
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.tile import (
    INFINITE,
    NO_LARGEST,
    QUADRATIC,
    as_operand,
    fold_cosines,
    negative_cosines,
    reweighted,
    store_totals,
    times_slope,
)

LOG_2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=["num_rows", "num_classes", "num_splits", "tiles_per_split"])
def flash_kernel(
    # tensors: unit rows (B, DIM) and (C, DIM), (B,), (B,), 0-d
    x_ptr, w_ptr, labels_ptr, threshold_ptr, linear_ptr,
    # out: (6, num_splits, B), (num_splits, B, DIM)
    totals_ptr, weighted_ptr,
    # run-time scalars
    num_rows, num_classes, num_splits, tiles_per_split, scale_log2, square, constant,
    # specialisation
    DIM: tl.constexpr, MODE: tl.constexpr, PRECISION: tl.constexpr, SHIFT: tl.constexpr,
    # tiling
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One block of rows against one split of the classes; grid (row blocks * num_splits,)."""
    num_blocks = tl.cdiv(num_rows, BLOCK_B)
    split = (tl.program_id(0) // num_blocks).to(tl.int64)
    rows = (tl.program_id(0) % num_blocks) * BLOCK_B + tl.arange(0, BLOCK_B)
    mask_b = rows < num_rows
    offs_d = tl.arange(0, DIM)
    x_offsets = rows.to(tl.int64)[:, None] * DIM + offs_d[None, :]
    x = tl.load(x_ptr + x_offsets, mask=mask_b[:, None], other=0.0)
    labels = tl.load(labels_ptr + rows, mask=mask_b, other=-1).to(tl.int32)
    threshold = tl.load(threshold_ptr + rows, mask=mask_b, other=INFINITE)
    linear = tl.load(linear_ptr)

    largest = tl.full((BLOCK_B,), NO_LARGEST, dtype=tl.float32)
    total = tl.zeros((BLOCK_B,), dtype=tl.float32)
    weighted = tl.zeros((BLOCK_B, DIM), dtype=tl.float32)
    max_cos = tl.full((BLOCK_B,), NO_LARGEST, dtype=tl.float32)
    num_hard = tl.zeros((BLOCK_B,), dtype=tl.float32)
    min_hard = tl.full((BLOCK_B,), INFINITE, dtype=tl.float32)
    sum_hard = tl.zeros((BLOCK_B,), dtype=tl.float32)

    first = tl.program_id(0) // num_blocks * tiles_per_split * BLOCK_C
    last = tl.minimum(first + tiles_per_split * BLOCK_C, num_classes)
    # One 64-bit pointer moves on; the offsets within a tile fit 32 bits and stay in their registers.
    tile_ptr = w_ptr + split * tiles_per_split * BLOCK_C * DIM
    offs_c = tl.arange(0, BLOCK_C)
    w_offsets = offs_c[:, None] * DIM + offs_d[None, :]
    for start in range(first, last, BLOCK_C):
        columns = start + offs_c
        w = tl.load(tile_ptr + w_offsets, mask=(columns < num_classes)[:, None], other=0.0)
        tile_ptr += BLOCK_C * DIM
        cos = negative_cosines(x, w, labels, columns, num_classes, PRECISION)
        hard = cos > threshold[:, None]
        max_cos, num_hard, min_hard, sum_hard = fold_cosines(
            cos, hard, max_cos, num_hard, min_hard, sum_hard, MODE
        )
        n = reweighted(cos, hard, square, linear, constant, MODE)
        new_largest = tl.maximum(largest, tl.max(n, axis=1))
        p = tl.exp2(n * scale_log2 + (SHIFT - new_largest * scale_log2)[:, None])
        rescale = tl.exp2((largest - new_largest) * scale_log2)
        largest = new_largest
        total = total * rescale + tl.sum(p, axis=1)
        p = times_slope(p, cos, hard, square, linear, MODE)
        p = as_operand(p, w_ptr.dtype.element_ty, PRECISION)
        weighted = tl.dot(p, w, weighted * rescale[:, None], input_precision=PRECISION)

    store_totals(
        totals_ptr, split, rows, num_rows, num_splits,
        largest, total, max_cos, num_hard, min_hard, sum_hard,
    )  # fmt: skip
    out = weighted_ptr + split * num_rows * DIM + x_offsets
    tl.store(out, weighted, mask=mask_b[:, None])


@triton.jit(do_not_specialize=["num_rows", "num_splits"])
def combine_kernel(
    # tensors: (6, num_splits, B), (num_splits, B, DIM), 0-d
    totals_ptr, weighted_ptr, linear_ptr,
    # out: (B,), (5, B) as in NegativeStats, (B, DIM)
    lse_ptr, stats_ptr, direction_ptr,
    # run-time scalars
    num_rows, num_splits, scale_log2, square,
    # specialisation
    DIM: tl.constexpr, MODE: tl.constexpr, SHIFT: tl.constexpr, WITH_DIRECTION: tl.constexpr,
    # tiling; BLOCK_S is at least num_splits
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Add up the splits of one row; grid (B,)."""
    row = tl.program_id(0).to(tl.int64)
    splits = tl.arange(0, BLOCK_S)
    mask = splits < num_splits
    ptrs = totals_ptr + splits.to(tl.int64) * num_rows + row
    step = num_splits * num_rows
    largests = tl.load(ptrs, mask=mask, other=NO_LARGEST)
    largest = tl.max(largests, axis=0)
    shares = tl.exp2((largests - largest) * scale_log2)
    total = tl.sum(tl.load(ptrs + step, mask=mask, other=0.0) * shares, axis=0)
    lse = (largest * scale_log2 + tl.log2(total) - SHIFT) * LOG_2
    tl.store(lse_ptr + row, lse)

    max_cos = tl.max(tl.load(ptrs + 2 * step, mask=mask, other=NO_LARGEST), axis=0)
    num_hard = tl.sum(tl.load(ptrs + 3 * step, mask=mask, other=0.0), axis=0)
    linear = tl.load(linear_ptr)
    if MODE == QUADRATIC:
        min_hard = tl.min(tl.load(ptrs + 4 * step, mask=mask, other=INFINITE), axis=0)
        sum_hard = tl.sum(tl.load(ptrs + 5 * step, mask=mask, other=0.0), axis=0)
        slope_min = 2.0 * square * min_hard + linear
        slope_max = 2.0 * square * max_cos + linear
        slope_sum = 2.0 * square * sum_hard + linear * num_hard
    else:
        slope_min = linear
        slope_max = linear
        slope_sum = linear * num_hard
    tl.store(stats_ptr + row, max_cos)
    tl.store(stats_ptr + num_rows + row, num_hard)
    tl.store(stats_ptr + 2 * num_rows + row, tl.where(num_hard > 0, slope_min, INFINITE))
    tl.store(stats_ptr + 3 * num_rows + row, tl.where(num_hard > 0, slope_max, -INFINITE))
    tl.store(stats_ptr + 4 * num_rows + row, slope_sum)

    if WITH_DIRECTION:
        offs_d = tl.arange(0, DIM)
        direction = tl.zeros((DIM,), dtype=tl.float32)
        for i in range(num_splits):
            part_largest = tl.load(totals_ptr + i * num_rows + row)
            share = tl.exp2((part_largest - largest) * scale_log2)
            part = tl.load(weighted_ptr + (i * num_rows + row) * DIM + offs_d)
            direction += part * share
        tl.store(direction_ptr + row * DIM + offs_d, direction / total)
