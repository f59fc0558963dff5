"""The gradient of the class centres, and of the embeddings if the forward did not compute its direction.

    dw_j = sum_i g_ij x_i     dx_i = sum_j g_ij w_j
    g_ij = a_i q_ij N'_ij (j != y),  v_i (j = y)                                         docs/losses.md (4)

D <= 256 (`centre_gradient_kernel`): a program owns BLOCK_C classes and walks the batch. It computes its
cosines again, takes a q from the saved log-sum-exp, and adds up its rows of the gradient in registers. Then
it projects them and stores them.

Larger D (chunk_gradients.py): a row of partial sums does not fit in registers next to a tile of cosines. So
the gradient is computed from stored coefficients g, one chunk of classes at a time.

Unit rows, coefficients and factors are padded to whole tiles, so that no loop masks them. a and v were
divided by their largest magnitude (reductions.py), so that they fit float16 and bfloat16; `unscale` undoes
this. `outer` is what all gradients are multiplied by besides, such as the gradient in the reduced loss.
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
)


@triton.jit
def coefficients(
    cos, factors_ptr, rows, num_padded, scale, square, bend, line, constant,
    MODE: tl.constexpr, SIGNED: tl.constexpr,
):  # fmt: skip
    """g [BLOCK_B, BLOCK_C] with every column as a negative; 0 past the last row."""
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
    """`g`, with v in the column of each row's target."""
    labels = tl.load(labels_ptr + rows, mask=rows < num_rows, other=-1).to(tl.int32)
    v = tl.load(factors_ptr + 2 * num_padded + rows)
    return tl.where(labels[:, None] == columns[None, :], v[:, None], g)


@triton.jit
def blocks_passed(start, ROWS: tl.constexpr):
    """How many blocks of FLAG_ROWS rows end within the ROWS rows from `start`."""
    blocks = ROWS // FLAG_ROWS
    if ROWS < FLAG_ROWS:
        blocks = (start + ROWS) // FLAG_ROWS - start // FLAG_ROWS
    return blocks


@triton.jit(
    do_not_specialize=["num_rows", "num_padded", "num_classes", "num_flags"],
    do_not_specialize_on_alignment=["outer_ptr"],
)
def centre_gradient_kernel(
    # tensors: unit rows (B, DIM) and (C, DIM), padded; once more w for the epilogue; (C,), padded
    x_ptr, w_ptr, w_again_ptr, inverse_w_ptr,
    # tensors: (B,), flags of tiles, (4, padded B) of `reductions.write_factors`, 0-d, 0-d, 0-d
    labels_ptr, flags_ptr, factors_ptr, unscale_ptr, outer_ptr, linear_ptr,
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
    flag_ptr = flags_ptr + first // FLAG_CLASSES
    # With a way around the loop, ptxas makes its products wait for one another (C7515).
    tl.assume(num_rows > 0)
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
        flagged = is_flagged(flag_ptr, 0, 0, num_flags, BLOCK_B, BLOCK_C)
        flag_ptr += blocks_passed(start, BLOCK_B) * num_flags
        if flagged:
            g = with_targets(g, labels_ptr, factors_ptr, rows, num_rows, num_padded, columns)
        g = as_operand(g, x_ptr.dtype.element_ty, PRECISION)
        d_w = tl.dot(tl.trans(g), x, d_w, input_precision=PRECISION)

    # Read w again, through another argument: kept across the loop it would take the registers of d_w.
    w = tl.load(w_again_ptr + w_offset + w_offsets).to(tl.float32)
    along = tl.sum(d_w * w, axis=1)
    factor = tl.load(inverse_w_ptr + columns) * (tl.load(unscale_ptr) * tl.load(outer_ptr))
    d_weight = (d_w - along[:, None] * w) * factor[:, None]
    # WIDTH is known to the compiler, so that it can join the stores.
    out = d_weight_ptr + first.to(tl.int64) * WIDTH + (offs_c[:, None] * WIDTH + offs_d[None, :])
    mask = (columns < num_classes)[:, None] & (offs_d < WIDTH)[None, :]
    tl.store(out, d_weight.to(d_weight_ptr.dtype.element_ty), mask=mask)
