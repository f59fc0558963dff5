"""The gradients in chunks of classes, for rows that are too long for centre_gradient_kernel (gradients.py).

The coefficients g of a chunk are computed once, in the operand dtype. Then both products read them in one
launch (`products_kernel`). The product for the embeddings adds to its own slice of `parts`, chunk after
chunk, so neither product needs atomics.
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.gradients import coefficients, with_targets
from fusedface.kernels.gpu.tile import (
    FLAG_CLASSES,
    FLAG_ROWS,
    PANEL,
    as_operand,
    is_flagged,
    panels,
    sliced_cosines,
)


@triton.jit(do_not_specialize=["num_rows", "num_padded", "num_classes", "num_flags", "first_class"])
def coefficients_kernel(
    # tensors: unit rows (B, DIM) and (C, DIM), padded; (B,), flags of tiles, (4, padded B), 0-d
    x_ptr, w_ptr, labels_ptr, flags_ptr, factors_ptr, linear_ptr,
    # out: (padded B, chunk), (row blocks, chunk)
    g_ptr, along_ptr,
    # run-time scalars
    num_rows, num_padded, num_classes, num_flags, first_class, chunk, scale, square, bend, constant,
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
    flagged = is_flagged(
        flags_ptr, first_row // FLAG_ROWS, (first_class + first) // FLAG_CLASSES, num_flags,
        BLOCK_B, BLOCK_C,
    )  # fmt: skip
    g_tile = g_ptr + first_row.to(tl.int64) * chunk + first
    along = along_ptr + block.to(tl.int64) * chunk + first
    store_coefficients(
        cos, flagged, first_class + first, rows, labels_ptr, factors_ptr, line, g_tile, along,
        num_rows, num_padded, num_classes, chunk, scale, square, bend, constant, MODE, PRECISION, SIGNED,
    )  # fmt: skip


@triton.jit
def store_coefficients(
    cos, flagged, first_column, rows, labels_ptr, factors_ptr, line, g_tile, along_ptr,
    num_rows, num_padded, num_classes, chunk, scale, square, bend, constant,
    MODE: tl.constexpr, PRECISION: tl.constexpr, SIGNED: tl.constexpr,
):  # fmt: skip
    """g of a tile of cosines, and its part along the class centres, panel by panel."""
    width: tl.constexpr = cos.shape[1]
    if width > PANEL:
        left, right = panels(cos)  # pyright: ignore[reportGeneralTypeIssues]
        store_coefficients(
            left, flagged, first_column, rows, labels_ptr, factors_ptr, line, g_tile, along_ptr,
            num_rows, num_padded, num_classes, chunk, scale, square, bend, constant,
            MODE, PRECISION, SIGNED,
        )  # fmt: skip
        store_coefficients(
            right, flagged, first_column + width // 2, rows, labels_ptr, factors_ptr, line,
            g_tile + width // 2, along_ptr + width // 2,
            num_rows, num_padded, num_classes, chunk, scale, square, bend, constant,
            MODE, PRECISION, SIGNED,
        )  # fmt: skip
    else:
        g = coefficients(
            cos, factors_ptr, rows, num_padded, scale, square, bend, line, constant, MODE, SIGNED
        )
        offs_c = tl.arange(0, width)
        if flagged:
            columns = first_column + offs_c
            g = with_targets(g, labels_ptr, factors_ptr, rows, num_rows, num_padded, columns)
            # Past the last class the cosine is 0. Where all others are below, that overflows, and infinity
            # times a row of zeros is NaN.
            g = tl.where((columns < num_classes)[None, :], g, 0.0)
        g = as_operand(g, g_tile.dtype.element_ty, PRECISION)
        # From the rounded g that the products use: any other would leave part of the gradient along the
        # centre.
        tl.store(along_ptr + offs_c, tl.sum(g.to(tl.float32) * cos, axis=0))
        tl.store(g_tile + (tl.arange(0, cos.shape[0])[:, None] * chunk + offs_c[None, :]), g)


@triton.jit(
    do_not_specialize=[
        "num_rows",
        "num_classes",
        "first_class",
        "num_embedding_tiles",
        "num_along",
        "is_later",
    ],
    do_not_specialize_on_alignment=["outer_ptr"],
)
def products_kernel(
    # tensors: (padded B, chunk), (num_along, chunk), unit rows (B, DIM) and (C, DIM), (C,), 0-d, 0-d
    g_ptr, along_ptr, x_ptr, w_ptr, inverse_w_ptr, unscale_ptr, outer_ptr,
    # out: (num_parts, B, DIM), added to if `is_later`; like the class centres, (C, WIDTH)
    parts_ptr, d_weight_ptr,
    # run-time scalars
    num_rows, num_classes, first_class, chunk, classes_per_part, num_embedding_tiles,
    num_along, is_later,
    # specialisation
    DIM: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    # tiling
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Both products with a chunk's coefficients, in one launch so that both find them in the cache.

    The first `num_embedding_tiles` programs, row blocks * D / BLOCK_D * num_parts, compute the product for
    the embeddings; the others, class blocks * D / BLOCK_D, compute that for the class centres.
    """
    program = tl.program_id(0)
    if program < num_embedding_tiles:
        embedding_product(
            program, g_ptr, w_ptr, parts_ptr, num_rows, first_class, chunk, classes_per_part, is_later,
            DIM, PRECISION, BLOCK_B, BLOCK_D, BLOCK_K,
        )  # fmt: skip
    else:
        centre_product(
            program - num_embedding_tiles, g_ptr, along_ptr, x_ptr, w_ptr, inverse_w_ptr, unscale_ptr,
            outer_ptr, d_weight_ptr, num_rows, num_classes, first_class, chunk, num_along,
            DIM, WIDTH, PRECISION, BLOCK_C, BLOCK_D, BLOCK_K,
        )  # fmt: skip


@triton.jit
def embedding_product(
    program, g_ptr, w_ptr, parts_ptr, num_rows, first_class, chunk, classes_per_part, is_later,
    DIM: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """parts[k] += g w over the k-th part of the chunk; without `is_later` parts[k] = g w."""
    num_blocks = tl.cdiv(num_rows, BLOCK_B)
    tile = program % (num_blocks * (DIM // BLOCK_D))
    part = program // (num_blocks * (DIM // BLOCK_D))
    first_row = (tile % num_blocks) * BLOCK_B
    first_column = tile // num_blocks * BLOCK_D
    offs_b, offs_d = tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_D)
    offs_k = tl.arange(0, BLOCK_K)
    first = part * classes_per_part
    # One 64-bit pointer to each tile, 32-bit offsets within it.
    g_tile = g_ptr + first_row.to(tl.int64) * chunk + first
    w_tile = w_ptr + (first_class + first).to(tl.int64) * DIM + first_column
    g_offsets = offs_b[:, None] * chunk + offs_k[None, :]
    w_offsets = offs_k[:, None] * DIM + offs_d[None, :]
    acc = tl.zeros((BLOCK_B, BLOCK_D), dtype=tl.float32)
    for _ in range(first, tl.minimum(first + classes_per_part, chunk), BLOCK_K):
        acc = tl.dot(
            tl.load(g_tile + g_offsets), tl.load(w_tile + w_offsets), acc, input_precision=PRECISION
        )
        g_tile += BLOCK_K
        w_tile += BLOCK_K * DIM
    out = parts_ptr + (part.to(tl.int64) * num_rows + first_row) * DIM + first_column
    add_parts(acc, out, first_row + offs_b < num_rows, is_later > 0, DIM)


@triton.jit
def add_parts(acc, out, mask, is_later, DIM: tl.constexpr):
    """Store `acc` panel by panel, added to the result of earlier chunks if there are any."""
    if acc.shape[1] > PANEL:
        left, right = panels(acc)  # pyright: ignore[reportGeneralTypeIssues]
        add_parts(left, out, mask, is_later, DIM)
        add_parts(right, out + acc.shape[1] // 2, mask, is_later, DIM)
    else:
        ptrs = out + (
            tl.arange(0, acc.shape[0])[:, None] * DIM + tl.arange(0, acc.shape[1])[None, :]
        )
        before = tl.load(ptrs, mask=mask[:, None] & is_later, other=0.0)
        tl.store(ptrs, before + acc, mask=mask[:, None])


@triton.jit
def centre_product(
    program, g_ptr, along_ptr, x_ptr, w_ptr, inverse_w_ptr, unscale_ptr, outer_ptr, d_weight_ptr,
    num_rows, num_classes, first_class, chunk, num_along,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """d_weight of BLOCK_C classes and BLOCK_D columns, projected."""
    first_column = program % (DIM // BLOCK_D) * BLOCK_D
    offs_d = first_column + tl.arange(0, BLOCK_D)
    first = program // (DIM // BLOCK_D) * BLOCK_C
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
    factor = tl.load(inverse_w_ptr + classes) * (tl.load(unscale_ptr) * tl.load(outer_ptr))
    first_row = (first_class + first).to(tl.int64)
    out = d_weight_ptr + first_row * WIDTH
    store_projected(
        d_w, along, factor, w_ptr + first_row * DIM, out, first_column,
        classes < num_classes, DIM, WIDTH,
    )  # fmt: skip


@triton.jit
def store_projected(
    d_w,
    along,
    factor,
    w_ptr,
    d_weight_ptr,
    first_column,
    mask,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The gradient of class centres from that of their unit rows, panel by panel."""
    width: tl.constexpr = d_w.shape[1]
    if width > PANEL:
        left, right = panels(d_w)  # pyright: ignore[reportGeneralTypeIssues]
        store_projected(left, along, factor, w_ptr, d_weight_ptr, first_column, mask, DIM, WIDTH)
        store_projected(
            right, along, factor, w_ptr, d_weight_ptr, first_column + width // 2, mask, DIM, WIDTH
        )
    else:
        offs_c, offs_d = tl.arange(0, d_w.shape[0]), first_column + tl.arange(0, width)
        w = tl.load(w_ptr + (offs_c[:, None] * DIM + offs_d[None, :])).to(tl.float32)
        d_weight = (d_w - along[:, None] * w) * factor[:, None]
        out = d_weight_ptr + (offs_c[:, None] * WIDTH + offs_d[None, :])
        tl.store(
            out,
            d_weight.to(d_weight_ptr.dtype.element_ty),
            mask=mask[:, None] & (offs_d < WIDTH)[None, :],
        )
