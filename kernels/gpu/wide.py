"""Any D: the log-sum-exp alone; and for D > 256 the backward in chunks of classes.

A row of D > 256 partial sums does not fit in registers next to a tile of cosines, so there the gradient
goes through its coefficients g (docs/losses.md (4)) of one chunk of classes at a time, in the operand
dtype: (B, K) numbers that stay in L2, whatever C is. Two products read them:

    dx_i += sum_{j in chunk} g_ij w_j         dw_j = sum_i g_ij x_i

Unit rows, coefficients and factors are padded to whole tiles, so that no loop masks
them. Neither needs atomics: the first adds to its own slice of `parts`, chunk after chunk.
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.centres import coefficients, with_targets
from fusedface.kernels.gpu.flash import fixed_reference
from fusedface.kernels.gpu.tile import (
    FLAG_CLASSES,
    FLAG_ROWS,
    INFINITE,
    NO_LARGEST,
    QUADRATIC,
    as_operand,
    hard_step,
    is_flagged,
    lane_maxima,
    lane_sums,
    lifts,
    logits,
    most_lift,
    sliced_cosines,
    store_totals,
    threshold_step,
    without_targets,
)


@triton.jit(
    do_not_specialize=["num_rows", "num_classes", "num_splits", "tiles_per_split", "num_flags"]
)
def lse_kernel(
    # tensors: unit rows (B, DIM) and (C, DIM), padded; (B,), (B,), 0-d, flags of tiles
    x_ptr, w_ptr, labels_ptr, threshold_ptr, linear_ptr, flags_ptr,
    # out: totals of each split, (6, num_splits, B)
    totals_ptr,
    # run-time scalars
    num_rows, num_classes, num_splits, tiles_per_split, num_flags,
    scale, square, bend, constant, top,
    # specialisation
    DIM: tl.constexpr, MODE: tl.constexpr, PRECISION: tl.constexpr, SHIFT: tl.constexpr,
    FIXED: tl.constexpr,
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
    most = most_lift(bend, line)

    largest = tl.full((BLOCK_B,), NO_LARGEST, dtype=tl.float32)
    total = tl.zeros((BLOCK_B, 4), dtype=tl.float32)
    max_cos = tl.full((BLOCK_B, 4), NO_LARGEST, dtype=tl.float32)
    num_hard = tl.zeros((BLOCK_B, 4), dtype=tl.float32)
    least = tl.zeros((BLOCK_B, 4), dtype=tl.float32)
    sum_lift = tl.zeros((BLOCK_B, 4), dtype=tl.float32)

    first = split * tiles_per_split * BLOCK_C
    last = tl.minimum(first + tiles_per_split * BLOCK_C, num_classes)
    for start in range(first, last, BLOCK_C):
        cos = sliced_cosines(
            x_ptr, w_ptr, first_row, start, DIM, BLOCK_B, BLOCK_C, BLOCK_K, PRECISION
        )
        if is_flagged(
            flags_ptr, first_row // FLAG_ROWS, start // FLAG_CLASSES, num_flags, BLOCK_B, BLOCK_C
        ):
            labels = tl.load(labels_ptr + rows, mask=mask_b, other=-1).to(tl.int32)
            cos = without_targets(cos, labels, start + tl.arange(0, BLOCK_C), num_classes)
        hard = hard_step(cos, step[:, None])
        max_cos = tl.maximum(max_cos, lane_maxima(cos))
        num_hard += lane_sums(hard)
        if MODE >= QUADRATIC:
            lift = lifts(cos, hard, bend, line, MODE)
            least = tl.maximum(least, lane_maxima(most * hard - lift))
            sum_lift += lane_sums(lift)
        if FIXED:
            z = logits(cos, hard, -reference, scale, square, line, constant, MODE)
            total += lane_sums(tl.exp2(z))
        else:
            z = logits(cos, hard, 0.0, scale, square, line, constant, MODE)
            new_largest = tl.maximum(largest, tl.max(z, axis=1))
            p = tl.exp2(z + (SHIFT - new_largest)[:, None])
            total = total * tl.exp2(largest - new_largest)[:, None] + lane_sums(p)
            largest = new_largest

    if FIXED:
        largest = tl.zeros((BLOCK_B,), dtype=tl.float32) + reference
    store_totals(
        totals_ptr, split.to(tl.int64), rows, num_rows, num_splits,
        largest, total, max_cos, num_hard, least, sum_lift,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows", "num_padded", "num_flags", "first_class"])
def coefficients_kernel(
    # tensors: unit rows (B, DIM) and (C, DIM), padded; (B,), flags of tiles, (4, padded B), 0-d
    x_ptr, w_ptr, labels_ptr, flags_ptr, factors_ptr, linear_ptr,
    # out: (padded B, chunk), (row blocks, chunk)
    g_ptr, along_ptr,
    # run-time scalars
    num_rows, num_padded, num_flags, first_class, chunk, scale, square, bend, constant,
    # specialisation
    DIM: tl.constexpr, MODE: tl.constexpr, PRECISION: tl.constexpr, SIGNED: tl.constexpr,
    # tiling
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """g of one tile, and sum_i g_ij cos_ij for the projection; grid (row blocks * class blocks,)."""
    num_blocks = tl.cdiv(num_rows, BLOCK_B)
    block = tl.program_id(0) % num_blocks
    first_row = block * BLOCK_B
    rows = first_row + tl.arange(0, BLOCK_B)
    first = tl.program_id(0) // num_blocks * BLOCK_C
    line = tl.load(linear_ptr) - 1.0
    cos = sliced_cosines(
        x_ptr, w_ptr, first_row, first_class + first, DIM, BLOCK_B, BLOCK_C, BLOCK_K, PRECISION
    )
    g = coefficients(
        cos, factors_ptr, rows, num_padded, scale, square, bend, line, constant, MODE, SIGNED
    )
    offs_c = tl.arange(0, BLOCK_C)
    if is_flagged(
        flags_ptr, first_row // FLAG_ROWS, (first_class + first) // FLAG_CLASSES, num_flags,
        BLOCK_B, BLOCK_C,
    ):  # fmt: skip
        columns = first_class + first + offs_c
        g = with_targets(g, labels_ptr, factors_ptr, rows, num_rows, num_padded, columns)
    g = as_operand(g, g_ptr.dtype.element_ty, PRECISION)
    # Of g as the products see it: of any other, part of the gradient would stay along the class centre.
    along = tl.sum(g.to(tl.float32) * cos, axis=0)
    tl.store(along_ptr + block.to(tl.int64) * chunk + first + offs_c, along)
    g_tile = g_ptr + first_row.to(tl.int64) * chunk + first
    tl.store(g_tile + (tl.arange(0, BLOCK_B)[:, None] * chunk + offs_c[None, :]), g)


@triton.jit(do_not_specialize=["num_rows", "first_class"])
def embedding_product_kernel(
    # tensors: (padded B, chunk), unit rows (C, DIM) -> added to (num_parts, B, DIM)
    g_ptr, w_ptr, parts_ptr,
    num_rows, first_class, chunk, classes_per_part,
    DIM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """parts[k] += g w over the k-th part of the chunk; grid (row blocks * D / BLOCK_D * num_parts,)."""
    num_blocks = tl.cdiv(num_rows, BLOCK_B)
    tile = tl.program_id(0) % (num_blocks * (DIM // BLOCK_D))
    part = tl.program_id(0) // (num_blocks * (DIM // BLOCK_D))
    first_row = (tile % num_blocks) * BLOCK_B
    offs_b = tl.arange(0, BLOCK_B)
    offs_d = tile // num_blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    offs_k = tl.arange(0, BLOCK_K)
    mask_b = (first_row + offs_b < num_rows)[:, None]
    first = part * classes_per_part
    # One 64-bit pointer to each tile, 32-bit offsets within it.
    out = parts_ptr + (part.to(tl.int64) * num_rows + first_row) * DIM
    out_offsets = offs_b[:, None] * DIM + offs_d[None, :]
    g_tile = g_ptr + first_row.to(tl.int64) * chunk + first
    w_tile = w_ptr + (first_class + first).to(tl.int64) * DIM
    g_offsets = offs_b[:, None] * chunk + offs_k[None, :]
    w_offsets = offs_k[:, None] * DIM + offs_d[None, :]
    acc = tl.load(out + out_offsets, mask=mask_b, other=0.0)
    for _ in range(first, tl.minimum(first + classes_per_part, chunk), BLOCK_K):
        acc = tl.dot(
            tl.load(g_tile + g_offsets), tl.load(w_tile + w_offsets), acc, input_precision=PRECISION
        )
        g_tile += BLOCK_K
        w_tile += BLOCK_K * DIM
    tl.store(out + out_offsets, acc, mask=mask_b)


@triton.jit(do_not_specialize=["num_rows", "num_classes", "first_class", "num_along"])
def centre_product_kernel(
    # tensors: (padded B, chunk), (num_along, chunk), unit rows (B, DIM) and (C, DIM), (C,), 0-d
    g_ptr, along_ptr, x_ptr, w_ptr, inverse_w_ptr, unscale_ptr,
    # out: like the class centres, (C, WIDTH)
    d_weight_ptr,
    num_rows, num_classes, first_class, chunk, num_along,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """d_weight of BLOCK_C classes and BLOCK_D columns, projected; grid (class blocks * D / BLOCK_D,)."""
    offs_d = tl.program_id(0) % (DIM // BLOCK_D) * BLOCK_D + tl.arange(0, BLOCK_D)
    first = tl.program_id(0) // (DIM // BLOCK_D) * BLOCK_C
    offs_c, offs_k = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_K)
    g_tile, x_tile = g_ptr + first, x_ptr
    g_offsets = offs_k[:, None] * chunk + offs_c[None, :]
    x_offsets = offs_k[:, None] * DIM + offs_d[None, :]
    d_w = tl.zeros((BLOCK_C, BLOCK_D), dtype=tl.float32)
    for _ in range(0, num_rows, BLOCK_K):
        g = tl.load(g_tile + g_offsets)
        x = tl.load(x_tile + x_offsets)
        d_w = tl.dot(tl.trans(g), x, d_w, input_precision=PRECISION)
        g_tile += BLOCK_K * chunk.to(tl.int64)
        x_tile += BLOCK_K * DIM

    along = tl.zeros((BLOCK_C,), dtype=tl.float32)
    for block in range(num_along):
        along += tl.load(along_ptr + block * chunk + first + offs_c)
    classes = first_class + first + offs_c
    mask_c = classes < num_classes
    first_row = (first_class + first).to(tl.int64)
    w = tl.load(w_ptr + first_row * DIM + (offs_c[:, None] * DIM + offs_d[None, :])).to(tl.float32)
    factor = tl.load(inverse_w_ptr + classes) * tl.load(unscale_ptr)
    d_weight = (d_w - along[:, None] * w) * factor[:, None]
    out = d_weight_ptr + first_row * WIDTH + (offs_c[:, None] * WIDTH + offs_d[None, :])
    mask = mask_c[:, None] & (offs_d < WIDTH)[None, :]
    tl.store(out, d_weight.to(d_weight_ptr.dtype.element_ty), mask=mask)
