"""Any D: the log-sum-exp alone; and for D > 256 the backward in chunks of classes.

A row of D > 256 partial sums does not fit in registers next to a tile of cosines, so there the gradient
goes through its coefficients g (docs/losses.md (4)) of one chunk of classes at a time, in the operand
dtype: (B, K) numbers that stay in L2, whatever C is. Two products read them:

    dx_i += sum_{j in chunk} g_ij w_j         dw_j = sum_i g_ij x_i

Neither needs atomics: the first adds to its own slice of `parts`, chunk after chunk.
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.centres import coefficients
from fusedface.kernels.gpu.tile import (
    INFINITE,
    NO_LARGEST,
    as_operand,
    fold_cosines,
    reweighted,
    sliced_cosines,
    store_totals,
    without_targets,
)


@triton.jit(do_not_specialize=["num_rows", "num_classes", "num_splits", "tiles_per_split"])
def lse_kernel(
    # tensors: unit rows (B, DIM) and (C, DIM), (B,), (B,), 0-d
    x_ptr, w_ptr, labels_ptr, threshold_ptr, linear_ptr,
    # out: totals of each split, (6, num_splits, B)
    totals_ptr,
    # run-time scalars
    num_rows, num_classes, num_splits, tiles_per_split, scale_log2, square, constant,
    # specialisation
    DIM: tl.constexpr, MODE: tl.constexpr, PRECISION: tl.constexpr, SHIFT: tl.constexpr,
    # tiling
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`flash_kernel` without the weighted sum; grid (row blocks * num_splits,)."""
    num_blocks = tl.cdiv(num_rows, BLOCK_B)
    split = tl.program_id(0) // num_blocks
    rows = (tl.program_id(0) % num_blocks) * BLOCK_B + tl.arange(0, BLOCK_B)
    mask_b = rows < num_rows
    labels = tl.load(labels_ptr + rows, mask=mask_b, other=-1).to(tl.int32)
    threshold = tl.load(threshold_ptr + rows, mask=mask_b, other=INFINITE)
    linear = tl.load(linear_ptr)

    largest = tl.full((BLOCK_B,), NO_LARGEST, dtype=tl.float32)
    total = tl.zeros((BLOCK_B,), dtype=tl.float32)
    max_cos = tl.full((BLOCK_B,), NO_LARGEST, dtype=tl.float32)
    num_hard = tl.zeros((BLOCK_B,), dtype=tl.float32)
    min_hard = tl.full((BLOCK_B,), INFINITE, dtype=tl.float32)
    sum_hard = tl.zeros((BLOCK_B,), dtype=tl.float32)

    first = split * tiles_per_split * BLOCK_C
    last = tl.minimum(first + tiles_per_split * BLOCK_C, num_classes)
    for start in range(first, last, BLOCK_C):
        columns = start + tl.arange(0, BLOCK_C)
        cos = sliced_cosines(
            x_ptr, w_ptr, rows, columns, num_rows, num_classes,
            DIM, BLOCK_B, BLOCK_C, BLOCK_K, PRECISION,
        )  # fmt: skip
        cos = without_targets(cos, labels, columns, num_classes)
        hard = cos > threshold[:, None]
        max_cos, num_hard, min_hard, sum_hard = fold_cosines(
            cos, hard, max_cos, num_hard, min_hard, sum_hard, MODE
        )
        n = reweighted(cos, hard, square, linear, constant, MODE)
        new_largest = tl.maximum(largest, tl.max(n, axis=1))
        p = tl.exp2(n * scale_log2 + (SHIFT - new_largest * scale_log2)[:, None])
        total = total * tl.exp2((largest - new_largest) * scale_log2) + tl.sum(p, axis=1)
        largest = new_largest

    store_totals(
        totals_ptr, split.to(tl.int64), rows, num_rows, num_splits,
        largest, total, max_cos, num_hard, min_hard, sum_hard,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows", "num_classes", "first_class"])
def coefficients_kernel(
    # tensors: unit rows (B, DIM) and (C, DIM), (B,), (B,), (3, B), 0-d
    x_ptr, w_ptr, labels_ptr, threshold_ptr, factors_ptr, linear_ptr,
    # out: (B, chunk), (row blocks, chunk)
    g_ptr, along_ptr,
    # run-time scalars
    num_rows, num_classes, first_class, chunk, scale_log2, square, constant,
    # specialisation
    DIM: tl.constexpr, MODE: tl.constexpr, PRECISION: tl.constexpr,
    # tiling
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """g of one tile, and sum_i g_ij cos_ij for the projection; grid (row blocks * class blocks,)."""
    num_blocks = tl.cdiv(num_rows, BLOCK_B)
    block = tl.program_id(0) % num_blocks
    rows = block * BLOCK_B + tl.arange(0, BLOCK_B)
    offs_c = tl.program_id(0) // num_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    columns = first_class + offs_c
    labels = tl.load(labels_ptr + rows, mask=rows < num_rows, other=-1).to(tl.int32)
    linear = tl.load(linear_ptr)
    cos = sliced_cosines(
        x_ptr, w_ptr, rows, columns, num_rows, num_classes,
        DIM, BLOCK_B, BLOCK_C, BLOCK_K, PRECISION,
    )  # fmt: skip
    g = coefficients(
        cos, labels, columns, threshold_ptr, factors_ptr, rows, num_rows,
        scale_log2, square, linear, constant, MODE,
    )  # fmt: skip
    g = tl.where((columns < num_classes)[None, :], g, 0.0)
    tl.store(along_ptr + block.to(tl.int64) * chunk + offs_c, tl.sum(g * cos, axis=0))
    out = g_ptr + rows.to(tl.int64)[:, None] * chunk + offs_c[None, :]
    g = as_operand(g, g_ptr.dtype.element_ty, PRECISION)
    tl.store(out, g, mask=(rows < num_rows)[:, None])


@triton.jit(do_not_specialize=["num_rows", "num_classes", "first_class"])
def embedding_product_kernel(
    # tensors: (B, chunk), unit rows (C, DIM) -> added to (num_parts, B, DIM)
    g_ptr, w_ptr, parts_ptr,
    num_rows, num_classes, first_class, chunk, classes_per_part,
    DIM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """parts[k] += g w over the k-th part of the chunk; grid (row blocks * D / BLOCK_D * num_parts,)."""
    num_blocks = tl.cdiv(num_rows, BLOCK_B)
    tile = tl.program_id(0) % (num_blocks * (DIM // BLOCK_D))
    part = tl.program_id(0) // (num_blocks * (DIM // BLOCK_D))
    rows = (tile % num_blocks) * BLOCK_B + tl.arange(0, BLOCK_B)
    offs_d = tile // num_blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    mask_b = (rows < num_rows)[:, None]
    out = parts_ptr + (part.to(tl.int64) * num_rows + rows[:, None]) * DIM + offs_d[None, :]
    offs_k = tl.arange(0, BLOCK_K)
    acc = tl.load(out, mask=mask_b, other=0.0)
    first = part * classes_per_part
    for start in range(first, tl.minimum(first + classes_per_part, chunk), BLOCK_K):
        columns = start + offs_k
        g = tl.load(
            g_ptr + rows.to(tl.int64)[:, None] * chunk + columns[None, :], mask=mask_b, other=0.0
        )
        classes = first_class + columns
        w_offsets = classes.to(tl.int64)[:, None] * DIM + offs_d[None, :]
        w = tl.load(w_ptr + w_offsets, mask=(classes < num_classes)[:, None], other=0.0)
        acc = tl.dot(g, w, acc, input_precision=PRECISION)
    tl.store(out, acc, mask=mask_b)


@triton.jit(do_not_specialize=["num_rows", "num_classes", "first_class", "num_along"])
def centre_product_kernel(
    # tensors: (B, chunk), (num_along, chunk), unit rows (B, DIM) and (C, DIM), (C,), 0-d
    g_ptr, along_ptr, x_ptr, w_ptr, inverse_w_ptr, unscale_ptr,
    # out: like the class centres, (C, dim)
    d_weight_ptr,
    num_rows, num_classes, first_class, chunk, num_along, dim,
    DIM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """d_weight of BLOCK_C classes and BLOCK_D columns, projected; grid (class blocks * D / BLOCK_D,)."""
    offs_d = tl.program_id(0) % (DIM // BLOCK_D) * BLOCK_D + tl.arange(0, BLOCK_D)
    first = tl.program_id(0) // (DIM // BLOCK_D) * BLOCK_C
    offs_c = first + tl.arange(0, BLOCK_C)
    offs_k = tl.arange(0, BLOCK_K)
    d_w = tl.zeros((BLOCK_C, BLOCK_D), dtype=tl.float32)
    for start in range(0, num_rows, BLOCK_K):
        rows = start + offs_k
        mask = (rows < num_rows)[:, None]
        g = tl.load(
            g_ptr + rows.to(tl.int64)[:, None] * chunk + offs_c[None, :], mask=mask, other=0.0
        )
        x = tl.load(
            x_ptr + rows.to(tl.int64)[:, None] * DIM + offs_d[None, :], mask=mask, other=0.0
        )
        d_w = tl.dot(tl.trans(g), x, d_w, input_precision=PRECISION)

    along = tl.zeros((BLOCK_C,), dtype=tl.float32)
    for block in range(num_along):
        along += tl.load(along_ptr + block * chunk + offs_c)
    classes = first_class + offs_c
    mask_c = classes < num_classes
    # One 64-bit pointer to the tile, 32-bit offsets within it: a pointer for each element would spill.
    first_row = (first_class + first).to(tl.int64)
    offs_row = tl.arange(0, BLOCK_C)[:, None]
    w_tile = w_ptr + first_row * DIM + (offs_row * DIM + offs_d[None, :])
    w = tl.load(w_tile, mask=mask_c[:, None], other=0.0).to(tl.float32)
    factor = tl.load(inverse_w_ptr + classes, mask=mask_c, other=0.0) * tl.load(unscale_ptr)
    d_weight = (d_w - along[:, None] * w) * factor[:, None]
    out = d_weight_ptr + first_row * dim + (offs_row * dim + offs_d[None, :])
    mask = mask_c[:, None] & (offs_d < dim)[None, :]
    tl.store(out, d_weight.to(d_weight_ptr.dtype.element_ty), mask=mask)
