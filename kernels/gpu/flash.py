"""D <= 256, forward: one pass over the classes gives the log-sum-exp and the gradient's direction.

    lse_i = log sum_{j != y} e^(s N_ij)      direction_i = sum_{j != y} q_ij N'_ij w_j    docs/losses.md (3)

It is attention with keys = values = class centres: a softmax over tiles of classes. The classes are
split over programs, each leaving a partial sum and weighted sum, which `combine_kernel` adds up in a
fixed order. A program owns BLOCK_B rows; neighbours share the tiles of w in L2.

Exponentials are taken over a reference. Cosines are bounded, so it can be the same for all rows (FIXED,
`layout.reference`) and nothing is scaled again. A row that it does not suit, because all of its
negatives are far below, is summed once more in `combine_kernel`. Otherwise it is the running maximum:
float16 weights p have no room for the other, and are carried as 2^SHIFT p, which cancels.
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.tile import (
    ABSENT,
    FLAG_CLASSES,
    FLAG_ROWS,
    INFINITE,
    LINEAR,
    NO_LARGEST,
    PLAIN,
    QUADRATIC,
    as_operand,
    hard_step,
    is_flagged,
    lane_maxima,
    lane_sums,
    lifts,
    logits,
    most_lift,
    store_totals,
    threshold_step,
    without_targets,
)

LOG_2 = tl.constexpr(0.6931471805599453)
# A sum of exponentials over a fixed reference that is larger may be infinite.
LARGEST_TOTAL = tl.constexpr(2.0**126)
AGAIN_C = tl.constexpr(8)  # classes at a time of a row that is summed again


@triton.jit
def fixed_reference(scale, square, line, constant, top, MODE: tl.constexpr):
    """A base-2 logit that 2^`top` is counted from: above N of every cosine, by 1 % for rounded rows."""
    bound = scale
    if MODE != PLAIN:
        bound = tl.maximum(square + tl.abs(line + 1.0) * scale + constant, scale)
    return 1.01 * bound - top


@triton.jit(
    do_not_specialize=["num_rows", "num_classes", "num_splits", "tiles_per_split", "num_flags"]
)
def flash_kernel(
    # tensors: unit rows (B, DIM) and (C, DIM), padded; (B,), (B,), 0-d, flags of tiles
    x_ptr, w_ptr, labels_ptr, threshold_ptr, linear_ptr, flags_ptr,
    # out: (6, num_splits, B), (num_splits, B, DIM)
    totals_ptr, weighted_ptr,
    # run-time scalars
    num_rows, num_classes, num_splits, tiles_per_split, num_flags,
    scale, square, bend, constant, top,
    # specialisation
    DIM: tl.constexpr, MODE: tl.constexpr, PRECISION: tl.constexpr, SHIFT: tl.constexpr,
    FIXED: tl.constexpr,
    # tiling
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One block of rows against one split of the classes; grid (row blocks * num_splits,)."""
    num_blocks = tl.cdiv(num_rows, BLOCK_B)
    split = tl.program_id(0) // num_blocks
    first_row = (tl.program_id(0) % num_blocks) * BLOCK_B
    rows = first_row + tl.arange(0, BLOCK_B)
    mask_b = rows < num_rows
    offs_d = tl.arange(0, DIM)
    x_offsets = tl.arange(0, BLOCK_B)[:, None] * DIM + offs_d[None, :]
    x = tl.load(x_ptr + first_row.to(tl.int64) * DIM + x_offsets)
    threshold = tl.load(threshold_ptr + rows, mask=mask_b, other=INFINITE)
    step = threshold_step(threshold)
    line = tl.load(linear_ptr) - 1.0
    reference = fixed_reference(scale, square, line, constant, top, MODE)
    most = most_lift(bend, line)

    largest = tl.full((BLOCK_B,), NO_LARGEST, dtype=tl.float32)
    total = tl.zeros((BLOCK_B, 4), dtype=tl.float32)
    weighted = tl.zeros((BLOCK_B, DIM), dtype=tl.float32)
    max_cos = tl.full((BLOCK_B, 4), NO_LARGEST, dtype=tl.float32)
    num_hard = tl.zeros((BLOCK_B, 4), dtype=tl.float32)
    least = tl.zeros((BLOCK_B, 4), dtype=tl.float32)
    sum_lift = tl.zeros((BLOCK_B, 4), dtype=tl.float32)

    first = split * tiles_per_split * BLOCK_C
    last = tl.minimum(first + tiles_per_split * BLOCK_C, num_classes)
    # One 64-bit pointer moves on; the offsets within a tile fit 32 bits and stay in their registers.
    tile_ptr = w_ptr + first.to(tl.int64) * DIM
    offs_c = tl.arange(0, BLOCK_C)
    w_offsets = offs_c[:, None] * DIM + offs_d[None, :]
    for start in range(first, last, BLOCK_C):
        w = tl.load(tile_ptr + w_offsets)
        tile_ptr += BLOCK_C * DIM
        cos = tl.dot(x, tl.trans(w), input_precision=PRECISION)
        if is_flagged(
            flags_ptr, first_row // FLAG_ROWS, start // FLAG_CLASSES, num_flags, BLOCK_B, BLOCK_C
        ):
            labels = tl.load(labels_ptr + rows, mask=mask_b, other=-1).to(tl.int32)
            cos = without_targets(cos, labels, start + offs_c, num_classes)
        hard = hard_step(cos, step[:, None])
        max_cos = tl.maximum(max_cos, lane_maxima(cos))
        num_hard += lane_sums(hard)
        if FIXED:
            p = tl.exp2(logits(cos, hard, -reference, scale, square, line, constant, MODE))
            total += lane_sums(p)
        else:
            z = logits(cos, hard, 0.0, scale, square, line, constant, MODE)
            new_largest = tl.maximum(largest, tl.max(z, axis=1))
            p = tl.exp2(z + (SHIFT - new_largest)[:, None])
            rescale = tl.exp2(largest - new_largest)
            largest = new_largest
            total = total * rescale[:, None] + lane_sums(p)
            weighted = weighted * rescale[:, None]
        if MODE == LINEAR:
            p = p * (hard * line + 1.0)
        elif MODE >= QUADRATIC:
            lift = lifts(cos, hard, bend, line, MODE)
            least = tl.maximum(least, lane_maxima(most * hard - lift))
            p = p * lift + p
            sum_lift += lane_sums(lift)  # here rather than above, where it would spill
        p = as_operand(p, w_ptr.dtype.element_ty, PRECISION)
        weighted = tl.dot(p, w, weighted, input_precision=PRECISION)

    if FIXED:
        largest = tl.zeros((BLOCK_B,), dtype=tl.float32) + reference
    store_totals(
        totals_ptr, split.to(tl.int64), rows, num_rows, num_splits,
        largest, total, max_cos, num_hard, least, sum_lift,
    )  # fmt: skip
    out = weighted_ptr + (split.to(tl.int64) * num_rows + first_row) * DIM + x_offsets
    tl.store(out, weighted, mask=mask_b[:, None])


@triton.jit(do_not_specialize=["num_rows", "num_classes", "num_splits"])
def combine_kernel(
    # tensors: (6, num_splits, B), (num_splits, B, DIM)
    totals_ptr, weighted_ptr,
    # tensors, for a row that is summed again: unit rows (B, DIM) and (C, DIM), (B,), (B,), 0-d
    x_ptr, w_ptr, labels_ptr, threshold_ptr, linear_ptr,
    # out: (B,), (5, B) as in NegativeStats, (B, DIM)
    lse_ptr, stats_ptr, direction_ptr,
    # run-time scalars
    num_rows, num_classes, num_splits, scale, square, bend, constant, least_total,
    # specialisation
    DIM: tl.constexpr, MODE: tl.constexpr, SHIFT: tl.constexpr, FIXED: tl.constexpr,
    WITH_DIRECTION: tl.constexpr,
    # tiling; BLOCK_S is at least num_splits, BLOCK_D at least DIM
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Add up the splits of one row; grid (B,)."""
    row = tl.program_id(0).to(tl.int64)
    line = tl.load(linear_ptr) - 1.0
    # Outside of kernels a device function returns nothing, which is all that a type checker sees.
    largest, total, direction = summed_splits(  # pyright: ignore[reportGeneralTypeIssues]
        totals_ptr, weighted_ptr, row, num_rows, num_splits, DIM, WITH_DIRECTION, BLOCK_S, BLOCK_D
    )
    if FIXED:  # noqa: SIM102  (known when compiling)
        if (total < least_total) | (total > LARGEST_TOTAL):
            largest, total, direction = summed_again(
                x_ptr, w_ptr, row, tl.load(labels_ptr + row), tl.load(threshold_ptr + row),
                num_classes, scale, square, bend, line, constant, DIM, MODE, BLOCK_D,
            )  # fmt: skip
    tl.store(lse_ptr + row, (largest + tl.log2(total) - SHIFT) * LOG_2)
    if WITH_DIRECTION:
        offs_d = tl.arange(0, BLOCK_D)
        tl.store(direction_ptr + row * DIM + offs_d, direction / total, mask=offs_d < DIM)
    store_stats(totals_ptr, stats_ptr, row, num_rows, num_splits, bend, line, MODE, BLOCK_S)


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
    x_ptr, w_ptr, row, label, threshold, num_classes, scale, square, bend, line, constant,
    DIM: tl.constexpr, MODE: tl.constexpr, BLOCK_D: tl.constexpr,
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
        w_ptrs = w_ptr + columns.to(tl.int64)[:, None] * DIM + offs_d[None, :]
        w = tl.load(w_ptrs, mask=mask_d[None, :], other=0.0).to(tl.float32)
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
def store_stats(
    totals_ptr, stats_ptr, row, num_rows, num_splits, bend, line,
    MODE: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The statistics of a row over the splits."""
    splits = tl.arange(0, BLOCK_S)
    mask = splits < num_splits
    step = num_splits * num_rows
    ptrs = totals_ptr + 2 * step + splits * num_rows + row
    max_cos = tl.max(tl.load(ptrs, mask=mask, other=NO_LARGEST), axis=0)
    num_hard = tl.sum(tl.load(ptrs + step, mask=mask, other=0.0), axis=0)
    if MODE >= QUADRATIC:
        least = tl.max(tl.load(ptrs + 2 * step, mask=mask, other=0.0), axis=0)
        sum_lift = tl.sum(tl.load(ptrs + 3 * step, mask=mask, other=0.0), axis=0)
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
