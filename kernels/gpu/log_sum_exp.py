"""The pass over the classes: the log-sum-exp, and at D <= 256 the gradient's direction too.

    lse_i = log sum_{j != y} e^(s N_ij)      direction_i = sum_{j != y} q_ij N'_ij w_j    docs/losses.md (3)

With the direction this is attention with keys = values = class centres (`flash_kernel`): a softmax over
tiles of classes. The classes are split over programs. Each leaves a partial sum and weighted sum, and
combination.py adds these up in a fixed order. A program owns BLOCK_B rows; neighbours share tiles of w in
L2.

Exponentials are taken relative to a reference. Cosines are bounded, so it can be the same for all rows
(FIXED, `layout.reference`), and no sum is rescaled. It does not suit a row whose negatives are all far
below it: that row is summed once more when the splits are combined. Otherwise the reference is the running
maximum. Float16 weights p need that, because their range is too small for a fixed reference; they are
carried as 2^SHIFT p, and the factor cancels.

KEEP stores e^(s N - reference) N' of every negative in half precision, for the gradients (kept.py).
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.tile import (
    FLAG_CLASSES,
    FLAG_ROWS,
    INFINITE,
    LINEAR,
    NO_LARGEST,
    PANEL,
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
    ordered_bits,
    panels,
    sliced_cosines,
    store_totals,
    threshold_step,
    wide_index,
    without_targets,
)

KEPT_PANEL = tl.constexpr(32)  # columns at a time with KEEP, whose stores take registers


@triton.jit
def fixed_reference(scale, square, line, constant, top, MODE: tl.constexpr):
    """The base-2 logit whose exponential is 2^`top`: above N of every cosine, by 1 % for rounded rows."""
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

    totals = no_totals(BLOCK_B)
    weighted = tl.zeros((BLOCK_B, DIM), dtype=tl.float32)

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
        totals, weighted = attended(  # pyright: ignore[reportGeneralTypeIssues]
            cos, w, step, line, most, reference, totals, weighted,
            scale, square, bend, constant, MODE, PRECISION, SHIFT, FIXED,
        )  # fmt: skip

    store_totals(
        totals_ptr, split.to(tl.int64), rows, num_rows, num_splits,
        *relative_to(reference, totals, FIXED),
    )  # fmt: skip
    out = weighted_ptr + (split.to(tl.int64) * num_rows + first_row) * DIM + x_offsets
    tl.store(out, weighted, mask=mask_b[:, None])


@triton.jit
def attended(
    cos, w, step, line, most, reference, totals, weighted, scale, square, bend, constant,
    MODE: tl.constexpr, PRECISION: tl.constexpr, SHIFT: tl.constexpr, FIXED: tl.constexpr,
):  # fmt: skip
    """Add a tile of cosines to the six totals of its rows, and its class centres to the weighted sum."""
    largest, total, max_cos, num_hard, least, sum_lift = totals
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
        p = p * lift + p
        sum_lift += lane_sums(lift)  # here, because further up it would spill
        least = tl.maximum(least, lane_maxima(ordered_bits(most * hard - lift)))
    p = as_operand(p, w.dtype, PRECISION)
    weighted = tl.dot(p, w, weighted, input_precision=PRECISION)
    return (largest, total, max_cos, num_hard, least, sum_lift), weighted


@triton.jit(
    do_not_specialize=["num_rows", "num_classes", "num_splits", "tiles_per_split", "num_flags"]
)
def lse_kernel(
    # tensors: unit rows (B, DIM) and (C, DIM), padded; (B,), (B,), 0-d, flags of tiles
    x_ptr, w_ptr, labels_ptr, threshold_ptr, linear_ptr, flags_ptr,
    # out: totals of each split, (6, num_splits, B); with KEEP, (padded B, pitch) in half precision
    totals_ptr, kept_ptr,
    # run-time scalars
    num_rows, num_classes, num_splits, tiles_per_split, num_flags, pitch,
    scale, square, bend, constant, top,
    # specialisation
    DIM: tl.constexpr, MODE: tl.constexpr, PRECISION: tl.constexpr, SHIFT: tl.constexpr,
    FIXED: tl.constexpr, KEEP: tl.constexpr,
    # tiling
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`flash_kernel` without the weighted sum; grid (row blocks * num_splits,)."""
    num_blocks = tl.cdiv(num_rows, BLOCK_B)
    split = tl.program_id(0) // num_blocks
    first_row = (tl.program_id(0) % num_blocks) * BLOCK_B
    rows = first_row + tl.arange(0, BLOCK_B)
    mask_b = rows < num_rows
    step = threshold_step(tl.load(threshold_ptr + rows, mask=mask_b, other=INFINITE))
    line = tl.load(linear_ptr) - 1.0
    reference = fixed_reference(scale, square, line, constant, top, MODE)
    totals = no_totals(BLOCK_B)
    first = split * tiles_per_split * BLOCK_C
    last = tl.minimum(first + tiles_per_split * BLOCK_C, pitch if KEEP else num_classes)
    kept_block = kept_ptr + wide_index(first_row) * pitch
    for start in range(first, last, BLOCK_C):
        cos = sliced_cosines(
            x_ptr, w_ptr, first_row, start, DIM, BLOCK_B, BLOCK_C, BLOCK_K, PRECISION
        )
        if is_flagged(
            flags_ptr, first_row // FLAG_ROWS, start // FLAG_CLASSES, num_flags, BLOCK_B, BLOCK_C
        ):
            labels = tl.load(labels_ptr + rows, mask=mask_b, other=-1).to(tl.int32)
            cos = without_targets(cos, labels, start + tl.arange(0, BLOCK_C), num_classes)
        totals = taken_in(
            cos, step, line, reference, totals, kept_block + start, pitch,
            scale, square, bend, constant, MODE, SHIFT, FIXED, KEEP,
        )  # fmt: skip

    store_totals(
        totals_ptr, split.to(tl.int64), rows, num_rows, num_splits,
        *relative_to(reference, totals, FIXED),
    )  # fmt: skip


@triton.jit
def no_totals(BLOCK_B: tl.constexpr):
    """The totals of rows without classes: reference, sum, and what `store_totals` takes after them."""
    nothing = tl.zeros((BLOCK_B, 4), dtype=tl.float32)
    lowest = tl.full((BLOCK_B, 4), NO_LARGEST, dtype=tl.float32)
    largest = tl.full((BLOCK_B,), NO_LARGEST, dtype=tl.float32)
    return largest, nothing, lowest, nothing, ordered_bits(nothing), nothing


@triton.jit
def relative_to(reference, totals, FIXED: tl.constexpr):
    """The totals as `store_totals` takes them; the reference of the sums is one for all rows if FIXED."""
    largest, total, max_cos, num_hard, least, sum_lift = totals
    if FIXED:
        largest = tl.zeros(largest.shape, dtype=tl.float32) + reference
    return largest, total, max_cos, num_hard, least.to(tl.float32, bitcast=True), sum_lift


@triton.jit
def taken_in(
    cos, step, line, reference, totals, kept_tile, pitch, scale, square, bend, constant,
    MODE: tl.constexpr, SHIFT: tl.constexpr, FIXED: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Add a tile of cosines to the six totals of its rows, panel by panel."""
    if cos.shape[1] > (KEPT_PANEL if KEEP else PANEL):
        left, right = panels(cos)  # pyright: ignore[reportGeneralTypeIssues]
        totals = taken_in(
            left, step, line, reference, totals, kept_tile, pitch,
            scale, square, bend, constant, MODE, SHIFT, FIXED, KEEP,
        )  # fmt: skip
        totals = taken_in(
            right, step, line, reference, totals, kept_tile + cos.shape[1] // 2, pitch,
            scale, square, bend, constant, MODE, SHIFT, FIXED, KEEP,
        )  # fmt: skip
    else:
        totals = panel_taken_in(
            cos, step, line, reference, *totals, kept_tile, pitch,
            scale, square, bend, constant, MODE, SHIFT, FIXED, KEEP,
        )  # fmt: skip
    return totals


@triton.jit
def panel_taken_in(
    cos, step, line, reference, largest, total, max_cos, num_hard, least, sum_lift, kept_tile, pitch,
    scale, square, bend, constant,
    MODE: tl.constexpr, SHIFT: tl.constexpr, FIXED: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """`taken_in` for one panel."""
    hard = hard_step(cos, step[:, None])
    max_cos = tl.maximum(max_cos, lane_maxima(cos))
    num_hard += lane_sums(hard)
    if MODE >= QUADRATIC:
        lift = lifts(cos, hard, bend, line, MODE)
        below = ordered_bits(most_lift(bend, line) * hard - lift)
        least = tl.maximum(least, lane_maxima(below))
        sum_lift += lane_sums(lift)
    if FIXED:
        p = tl.exp2(logits(cos, hard, -reference, scale, square, line, constant, MODE))
        total += lane_sums(p)
        if KEEP:
            if MODE != PLAIN:
                p = p * lifts(cos, hard, bend, line, MODE) + p
            rows, columns = tl.arange(0, cos.shape[0]), tl.arange(0, cos.shape[1])
            kept = kept_tile + (rows[:, None] * pitch + columns[None, :])
            tl.store(kept, p.to(kept_tile.dtype.element_ty))
    else:
        z = logits(cos, hard, 0.0, scale, square, line, constant, MODE)
        new_largest = tl.maximum(largest, tl.max(z, axis=1))
        p = tl.exp2(z + (SHIFT - new_largest)[:, None])
        total = total * tl.exp2(largest - new_largest)[:, None] + lane_sums(p)
        largest = new_largest
    return largest, total, max_cos, num_hard, least, sum_lift
