"""Both gradients from exponentials that the forward kept: E_ij = e^(s N_ij - r_i) N'_ij  (log_sum_exp.py).

    g_ij = f_i E_ij     f_i = a_i / total_i     dx_i = f_i sum_j E_ij w_j     dw_j = sum_i E_ij (f_i x_i)

No cosine is computed again. In the column of a row's target lies -T' total, so that f times it is v. The
projection needs sum_i g_ij cos_ij, which is the product of a whole row of dw with its class centre: so a
program holds all columns of its class centres.
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.chunk_gradients import embedding_product
from fusedface.kernels.gpu.tile import wide_index


@triton.jit(do_not_specialize=["num_rows", "num_padded"])
def scaled_rows_kernel(
    # (B, dim), (padded B,), (B,), (padded B, pitch), (4, padded B) of `write_factors`
    x_ptr, inverse_ptr, labels_ptr, kept_ptr, factors_ptr,
    # out: (padded B, DIM), (padded B,)
    scaled_ptr, rounded_v_ptr,
    num_rows, num_padded, dim, pitch, row_stride, column_stride,
    DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """f x of BLOCK_N unit rows, rounded once; zeros past the last row; grid (padded B / BLOCK_N,).

    Also each row's v, rounded as the products take it.
    """
    rows = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    offs_d = tl.arange(0, BLOCK_D)
    mask = (rows < num_rows)[:, None] & (offs_d < dim)[None, :]
    x_ptrs = x_ptr + rows[:, None] * row_stride + offs_d.to(tl.int64)[None, :] * column_stride
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    factor = tl.load(factors_ptr + 3 * num_padded + rows)
    labels = tl.load(labels_ptr + rows, mask=rows < num_rows, other=-1)
    kept_ptrs = kept_ptr + rows * pitch + labels
    of_target = tl.load(kept_ptrs, mask=(rows < num_rows) & (labels >= 0), other=0.0).to(tl.float32)
    tl.store(rounded_v_ptr + rows, factor * of_target)
    out = scaled_ptr + rows[:, None] * DIM + offs_d[None, :]
    inverse = tl.load(inverse_ptr + rows)
    scaled = (x * inverse[:, None] * factor[:, None]).to(scaled_ptr.dtype.element_ty)
    tl.store(out, scaled, mask=(offs_d < DIM)[None, :])


@triton.jit(
    do_not_specialize=["num_rows", "num_classes", "num_embedding_tiles"],
    do_not_specialize_on_alignment=["outer_ptr"],
)
def kept_products_kernel(
    # tensors: (padded B, pitch), (padded B, DIM) of scaled_rows_kernel, unit rows (C, DIM) twice, (C,)
    # and two 0-d
    kept_ptr, scaled_ptr, w_ptr, w_again_ptr, inverse_w_ptr, unscale_ptr, outer_ptr,
    # out: (num_parts, B, DIM); like the class centres, (C, WIDTH)
    parts_ptr, d_weight_ptr,
    # run-time scalars
    num_rows, num_classes, pitch, classes_per_part, num_embedding_tiles,
    # specialisation
    DIM: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    # tiling; ROW is DIM or a power of two above it
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
    ROW: tl.constexpr,
):  # fmt: skip
    """Both products in one launch, as in `chunk_gradients.products_kernel`."""
    program = tl.program_id(0)
    if program < num_embedding_tiles:
        embedding_product(
            program, kept_ptr, w_ptr, parts_ptr, num_rows, 0, pitch, classes_per_part, 0,
            DIM, PRECISION, BLOCK_B, BLOCK_D, BLOCK_K,
        )  # fmt: skip
    else:
        centre_rows_product(
            program - num_embedding_tiles, kept_ptr, scaled_ptr, w_ptr, w_again_ptr, inverse_w_ptr,
            unscale_ptr, outer_ptr, d_weight_ptr, num_rows, num_classes, pitch,
            DIM, WIDTH, PRECISION, BLOCK_C, BLOCK_K, ROW,
        )  # fmt: skip


@triton.jit
def centre_rows_product(
    program, kept_ptr, scaled_ptr, w_ptr, w_again_ptr, inverse_w_ptr, unscale_ptr, outer_ptr,
    d_weight_ptr, num_rows, num_classes, pitch,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, ROW: tl.constexpr,
):  # fmt: skip
    """Whole rows of d_weight of BLOCK_C classes, projected."""
    first = program * BLOCK_C
    offs_c, offs_k, offs_d = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_K), tl.arange(0, ROW)
    kept_tile, x_tile = kept_ptr + first, scaled_ptr
    kept_offsets = offs_k[:, None] * pitch + offs_c[None, :]
    x_offsets = offs_k[:, None] * DIM + offs_d[None, :]
    d_w = tl.zeros((BLOCK_C, ROW), dtype=tl.float32)
    for _ in range(0, num_rows, BLOCK_K):
        kept = tl.load(kept_tile + kept_offsets)
        x = tl.load(x_tile + x_offsets, mask=(offs_d < DIM)[None, :], other=0.0)
        d_w = tl.dot(tl.trans(kept), x, d_w, input_precision=PRECISION)
        kept_tile += BLOCK_K * wide_index(pitch)
        x_tile += BLOCK_K * DIM

    classes = first + offs_c
    first_row = wide_index(first)
    w_tile, w_offsets = first_row * DIM, offs_c[:, None] * DIM + offs_d[None, :]
    of_row = (offs_d < DIM)[None, :]
    w = tl.load(w_ptr + w_tile + w_offsets, mask=of_row, other=0.0).to(tl.float32)
    along = tl.sum(d_w * w, axis=1)
    factor = tl.load(inverse_w_ptr + classes) * (tl.load(unscale_ptr) * tl.load(outer_ptr))
    # Read again, through another argument: kept in registers, these rows would spill.
    w = tl.load(w_again_ptr + w_tile + w_offsets, mask=of_row, other=0.0).to(tl.float32)
    d_weight = (d_w - along[:, None] * w) * factor[:, None]
    out = d_weight_ptr + first_row * WIDTH + (offs_c[:, None] * WIDTH + offs_d[None, :])
    mask = (classes < num_classes)[:, None] & (offs_d < WIDTH)[None, :]
    tl.store(out, d_weight.to(d_weight_ptr.dtype.element_ty), mask=mask)
