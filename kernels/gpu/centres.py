"""D <= 256, backward: the gradient of the class centres, written once and without atomics.

    dw_j = sum_i g_ij x_i     g_ij = a_i q_ij N'_ij (j != y),  v_i (j = y)         docs/losses.md (4)

A program owns BLOCK_C classes and walks the batch: it computes its cosines again, takes q from the saved
log-sum-exp, and adds up its rows of the gradient in registers. Then it projects them and stores them.
a and v come divided by their largest magnitude (`rows.row_factors_kernel`), so that neither
float16 nor bfloat16 loses them; `unscale` restores it.
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.tile import (
    INFINITE,
    as_operand,
    negative_cosines,
    reweighted,
    times_slope,
)


@triton.jit(do_not_specialize=["num_rows", "num_classes"])
def centre_gradient_kernel(
    # tensors: unit rows (B, DIM) and (C, DIM), once more w for the epilogue, (C,)
    x_ptr, w_ptr, w_again_ptr, inverse_w_ptr,
    # tensors: (B,), (B,), (3, B) of row_factors_kernel, 0-d, 0-d
    labels_ptr, threshold_ptr, factors_ptr, unscale_ptr, linear_ptr,
    # out: like the class centres, (C, dim)
    d_weight_ptr,
    # run-time scalars
    num_rows, num_classes, dim, scale_log2, square, constant,
    # specialisation
    DIM: tl.constexpr, MODE: tl.constexpr, PRECISION: tl.constexpr,
    # tiling
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """BLOCK_C classes against the whole batch; grid (class blocks,)."""
    first = tl.program_id(0) * BLOCK_C
    offs_c = tl.arange(0, BLOCK_C)
    columns = first + offs_c
    mask_c = columns < num_classes
    offs_d = tl.arange(0, DIM)
    # One 64-bit pointer to each tile that is read; the offsets within fit 32 bits, which spares registers.
    w_offset = first.to(tl.int64) * DIM
    w_offsets = offs_c[:, None] * DIM + offs_d[None, :]
    w = tl.load(w_ptr + w_offset + w_offsets, mask=mask_c[:, None], other=0.0)
    linear = tl.load(linear_ptr)
    d_w = tl.zeros((BLOCK_C, DIM), dtype=tl.float32)

    tile_ptr = x_ptr
    offs_b = tl.arange(0, BLOCK_B)
    x_offsets = offs_b[:, None] * DIM + offs_d[None, :]
    for start in range(0, num_rows, BLOCK_B):
        rows = start + offs_b
        mask_b = rows < num_rows
        x = tl.load(tile_ptr + x_offsets, mask=mask_b[:, None], other=0.0)
        tile_ptr += BLOCK_B * DIM
        labels = tl.load(labels_ptr + rows, mask=mask_b, other=-1).to(tl.int32)
        cos = negative_cosines(x, w, labels, columns, num_classes, PRECISION)
        g = coefficients(
            cos, labels, columns, threshold_ptr, factors_ptr, rows, num_rows,
            scale_log2, square, linear, constant, MODE,
        )  # fmt: skip
        g = as_operand(g, x_ptr.dtype.element_ty, PRECISION)
        d_w = tl.dot(tl.trans(g), x, d_w, input_precision=PRECISION)

    # Read w anew, through another argument: held across the loop it would take the registers of d_w.
    w = tl.load(w_again_ptr + w_offset + w_offsets, mask=mask_c[:, None], other=0.0).to(tl.float32)
    along = tl.sum(d_w * w, axis=1)
    factor = tl.load(inverse_w_ptr + columns, mask=mask_c, other=0.0) * tl.load(unscale_ptr)
    d_weight = (d_w - along[:, None] * w) * factor[:, None]
    out = d_weight_ptr + columns.to(tl.int64)[:, None] * dim + offs_d[None, :]
    mask = mask_c[:, None] & (offs_d < dim)[None, :]
    tl.store(out, d_weight.to(d_weight_ptr.dtype.element_ty), mask=mask)


@triton.jit
def coefficients(
    cos, labels, columns, threshold_ptr, factors_ptr, rows, num_rows,
    scale_log2, square, linear, constant, MODE: tl.constexpr,
):  # fmt: skip
    """g [BLOCK_B, BLOCK_C] from the cosines of the negatives; 0 past the last row."""
    mask = rows < num_rows
    threshold = tl.load(threshold_ptr + rows, mask=mask, other=INFINITE)
    lse_log2 = tl.load(factors_ptr + rows, mask=mask, other=0.0)
    a = tl.load(factors_ptr + num_rows + rows, mask=mask, other=0.0)
    v = tl.load(factors_ptr + 2 * num_rows + rows, mask=mask, other=0.0)
    hard = cos > threshold[:, None]
    n = reweighted(cos, hard, square, linear, constant, MODE)
    q = a[:, None] * tl.exp2(n * scale_log2 - lse_log2[:, None])
    g = times_slope(q, cos, hard, square, linear, MODE)
    return tl.where(labels[:, None] == columns[None, :], v[:, None], g)
