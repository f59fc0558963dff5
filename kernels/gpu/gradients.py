"""The gradient of the class centres, and of the embeddings where the forward has not left its direction.

    dw_j = sum_i g_ij x_i     dx_i = sum_j g_ij w_j
    g_ij = a_i q_ij N'_ij (j != y),  v_i (j = y)                                         docs/losses.md (4)

D <= 256 (`centre_gradient_kernel`): a program owns BLOCK_C classes and walks the batch. It computes its
cosines again, takes a q from the saved log-sum-exp, and adds up its rows of the gradient in registers. Then
it projects them and stores them.

Larger D: a row of partial sums does not fit in registers next to a tile of cosines, so there the gradient
goes through the coefficients g of one chunk of classes at a time, in the operand dtype: (B, K) numbers that
stay in L2, whatever C is. Two products read them; the one for the embeddings adds to its own slice of
`parts`, chunk after chunk, so that neither needs atomics.

Unit rows, coefficients and factors are padded to whole tiles, so that no loop masks them. a and v come
divided by their largest magnitude (reductions.py), so that neither float16 nor bfloat16 loses
them; `unscale` restores it.
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.tile import (
    FLAG_CLASSES,
    FLAG_ROWS,
    PLAIN,
    as_operand,
    hard_step,
    is_flagged,
    lifts,
    logits,
    sliced_cosines,
)


@triton.jit
def coefficients(
    cos, factors_ptr, rows, num_padded, scale, square, bend, line, constant,
    MODE: tl.constexpr, SIGNED: tl.constexpr,
):  # fmt: skip
    """g [BLOCK_B, BLOCK_C] as if no column were a target; 0 past the last row."""
    step = tl.load(factors_ptr + rows)
    offset = tl.load(factors_ptr + num_padded + rows)  # log2 |a| - log2(e) lse
    hard = hard_step(cos, step[:, None])
    g = tl.exp2(logits(cos, hard, offset[:, None], scale, square, line, constant, MODE))
    if SIGNED:
        a = tl.load(factors_ptr + 3 * num_padded + rows)
        g = g * tl.where(a < 0.0, -1.0, 1.0)[:, None]
    if MODE != PLAIN:
        g = g * lifts(cos, hard, bend, line, MODE) + g
    return g


@triton.jit
def with_targets(g, labels_ptr, factors_ptr, rows, num_rows, num_padded, columns):
    """`g` with v where the column is the row's target."""
    labels = tl.load(labels_ptr + rows, mask=rows < num_rows, other=-1).to(tl.int32)
    v = tl.load(factors_ptr + 2 * num_padded + rows)
    return tl.where(labels[:, None] == columns[None, :], v[:, None], g)


@triton.jit(do_not_specialize=["num_rows", "num_padded", "num_classes", "num_flags"])
def centre_gradient_kernel(
    # tensors: unit rows (B, DIM) and (C, DIM), padded; once more w for the epilogue; (C,), padded
    x_ptr, w_ptr, w_again_ptr, inverse_w_ptr,
    # tensors: (B,), flags of tiles, (4, padded B) of row_factors_kernel, 0-d, 0-d
    labels_ptr, flags_ptr, factors_ptr, unscale_ptr, linear_ptr,
    # out: like the class centres, (C, WIDTH)
    d_weight_ptr,
    # run-time scalars
    num_rows, num_padded, num_classes, num_flags, scale, square, bend, constant,
    # specialisation
    DIM: tl.constexpr, WIDTH: tl.constexpr, MODE: tl.constexpr, PRECISION: tl.constexpr,
    SIGNED: tl.constexpr,
    # tiling
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """BLOCK_C classes against the whole batch; grid (class blocks,)."""
    first = tl.program_id(0) * BLOCK_C
    offs_c = tl.arange(0, BLOCK_C)
    columns = first + offs_c
    offs_d = tl.arange(0, DIM)
    # One 64-bit pointer to each tile that is read; the offsets within fit 32 bits, which spares registers.
    w_offset = first.to(tl.int64) * DIM
    w_offsets = offs_c[:, None] * DIM + offs_d[None, :]
    w = tl.load(w_ptr + w_offset + w_offsets)
    line = tl.load(linear_ptr) - 1.0
    d_w = tl.zeros((BLOCK_C, DIM), dtype=tl.float32)

    tile_ptr = x_ptr
    offs_b = tl.arange(0, BLOCK_B)
    x_offsets = offs_b[:, None] * DIM + offs_d[None, :]
    for start in range(0, num_rows, BLOCK_B):
        rows = start + offs_b
        x = tl.load(tile_ptr + x_offsets)
        tile_ptr += BLOCK_B * DIM
        cos = tl.dot(x, tl.trans(w), input_precision=PRECISION)
        g = coefficients(
            cos, factors_ptr, rows, num_padded, scale, square, bend, line, constant, MODE, SIGNED
        )
        if is_flagged(
            flags_ptr, start // FLAG_ROWS, first // FLAG_CLASSES, num_flags, BLOCK_B, BLOCK_C
        ):
            g = with_targets(g, labels_ptr, factors_ptr, rows, num_rows, num_padded, columns)
        g = as_operand(g, x_ptr.dtype.element_ty, PRECISION)
        d_w = tl.dot(tl.trans(g), x, d_w, input_precision=PRECISION)

    # Read w again, through another argument: held across the loop it would take the registers of d_w.
    w = tl.load(w_again_ptr + w_offset + w_offsets).to(tl.float32)
    along = tl.sum(d_w * w, axis=1)
    factor = tl.load(inverse_w_ptr + columns) * tl.load(unscale_ptr)
    d_weight = (d_w - along[:, None] * w) * factor[:, None]
    # WIDTH is known to the compiler: with stores that it cannot join, products in the loop wait for others.
    out = d_weight_ptr + first.to(tl.int64) * WIDTH + (offs_c[:, None] * WIDTH + offs_d[None, :])
    mask = (columns < num_classes)[:, None] & (offs_d < WIDTH)[None, :]
    tl.store(out, d_weight.to(d_weight_ptr.dtype.element_ty), mask=mask)


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
