"""Work per row: unit rows in the operand dtype, target cosines, flags, projection of the backward.

A row without direction becomes zero and takes no gradient, one too long to square becomes NaN
(`kernels/interface/normalisation.py`).
Unit rows are padded with zeros to DIM columns, so that no kernel after this one masks columns. Columns are
counted in 64 bits where they have a stride: that of a transposed matrix is as long as its number of rows.
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.slots import COS, LENGTH_FACTOR, NORM, WRONG
from fusedface.kernels.gpu.tile import FLAG_CLASSES, FLAG_ROWS, as_operand, inverse_length
from fusedface.kernels.interface.normalisation import MIN_NORM as _MIN_NORM
from fusedface.kernels.interface.normalisation import MIN_NORM_FLOAT16 as _MIN_NORM_FLOAT16

MIN_NORM = tl.constexpr(_MIN_NORM)
MIN_NORM_FLOAT16 = tl.constexpr(_MIN_NORM_FLOAT16)


@triton.jit
def inverse_norm(squares, dtype: tl.constexpr):
    """1 / sqrt(squares) of rows that came in `dtype`: 0 without direction, NaN past the squares."""
    shortest: tl.constexpr = MIN_NORM_FLOAT16 if dtype == tl.float16 else MIN_NORM
    return inverse_length(squares, shortest)


@triton.jit
def rounded_product(x, y):
    """x y, which a sum takes as it is: every lane then has the same bits of the sum.

    A lane that holds one number of a row would fuse its own product with the sum of another lane's.
    """
    return tl.fma(x, y, tl.zeros(x.shape, tl.float32))


@triton.jit(
    do_not_specialize=["num_rows", "num_padded", "num_classes", "num_flags", "ignore_index"],
    do_not_specialize_on_alignment=["labels_ptr"],
)
def rows_kernel(
    # tensors: (B, dim), (C, dim), (B,)
    x_ptr, w_ptr, labels_ptr,
    # out: (padded B, DIM), (padded B,), (B,), scratch; flags as of `flags_kernel`
    unit_ptr, inverse_ptr, known_ptr, scratch_ptr, flags_ptr,
    # run-time scalars
    num_rows, num_padded, num_classes, num_flags, ignore_index, dim,
    label_stride, x_row_stride, x_column_stride, w_row_stride, w_column_stride,
    # specialisation; BLOCK_D is at least DIM
    DIM: tl.constexpr, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Unit rows, lengths, target cosines (of class 0 without one), labels; and the flags of tiles.

    Grid (padded B / BLOCK_N, and the programs of `flags_kernel`,): two kernels in one launch.
    """
    num_programs = num_padded // BLOCK_N
    if tl.program_id(0) >= num_programs:
        write_flags(
            labels_ptr, flags_ptr, tl.program_id(0) - num_programs, num_rows, num_classes, num_flags,
            label_stride, ignore_index, BLOCK_F,
        )  # fmt: skip
    else:
        rows = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
        is_row = rows < num_rows
        labels = tl.load(labels_ptr + rows * label_stride, mask=is_row, other=0).to(tl.int64)
        wrong = (labels < 0) | (labels >= num_classes)
        known = tl.where(labels == ignore_index, -1, tl.where(wrong, WRONG, labels))
        tl.store(known_ptr + rows, known, mask=is_row)
        columns = tl.maximum(known, 0)

        offs_d = tl.arange(0, BLOCK_D)
        mask = is_row[:, None] & (offs_d < dim)[None, :]
        x_ptrs = (
            x_ptr + rows[:, None] * x_row_stride + offs_d.to(tl.int64)[None, :] * x_column_stride
        )
        w_ptrs = (
            w_ptr + columns[:, None] * w_row_stride + offs_d.to(tl.int64)[None, :] * w_column_stride
        )
        x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
        w = tl.load(w_ptrs, mask=mask, other=0.0).to(tl.float32)
        squares = tl.sum(rounded_product(x, x), axis=1)
        inverse = inverse_norm(squares, x_ptr.dtype.element_ty)
        inverse_w = inverse_norm(tl.sum(rounded_product(w, w), axis=1), w_ptr.dtype.element_ty)
        unit = as_operand(x * inverse[:, None], unit_ptr.dtype.element_ty, PRECISION)
        unit_ptrs = unit_ptr + rows[:, None] * DIM + offs_d[None, :]
        tl.store(unit_ptrs, unit, mask=(offs_d < DIM)[None, :])
        tl.store(inverse_ptr + rows, inverse)
        cos = tl.sum(rounded_product(x, w), axis=1) * (inverse * inverse_w)
        tl.store(scratch_ptr + COS * num_padded + rows, cos)
        tl.store(scratch_ptr + NORM * num_padded + rows, tl.sqrt(squares))


@triton.jit(do_not_specialize=["num_rows"])
def unit_rows_kernel(
    # (N, dim) with strides -> (N, DIM), (N,)
    rows_ptr, unit_ptr, inverse_ptr,
    num_rows, dim, row_stride, column_stride,
    DIM: tl.constexpr, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """See `write_unit_rows`; grid (padded rows / BLOCK_N,)."""
    write_unit_rows(
        rows_ptr, unit_ptr, inverse_ptr, tl.program_id(0), num_rows, dim, row_stride, column_stride,
        DIM, PRECISION, BLOCK_D, BLOCK_N,
    )  # fmt: skip


@triton.jit
def write_unit_rows(
    rows_ptr, unit_ptr, inverse_ptr, program, num_rows, dim, row_stride, column_stride,
    DIM: tl.constexpr, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Unit rows and inverse lengths of one block of BLOCK_N rows, zeros past the last."""
    rows = (program * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    offs_d = tl.arange(0, BLOCK_D)
    mask = rows < num_rows
    values = tl.load(
        rows_ptr + rows[:, None] * row_stride + offs_d.to(tl.int64)[None, :] * column_stride,
        mask=mask[:, None] & (offs_d < dim)[None, :],
        other=0.0,
    ).to(tl.float32)
    inverse = inverse_norm(
        tl.sum(rounded_product(values, values), axis=1), rows_ptr.dtype.element_ty
    )
    unit = as_operand(values * inverse[:, None], unit_ptr.dtype.element_ty, PRECISION)
    tl.store(inverse_ptr + rows, inverse)
    out = unit_ptr + rows[:, None] * DIM + offs_d[None, :]
    tl.store(out, unit, mask=(offs_d < DIM)[None, :])


@triton.jit(do_not_specialize=["num_rows", "num_classes", "num_flags"])
def flags_kernel(
    # (B,) -> (padded B / FLAG_ROWS, num_flags)
    labels_ptr, flags_ptr,
    num_rows, num_classes, num_flags,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """1 for every tile of FLAG_ROWS x FLAG_CLASSES that holds a target or ends the classes.

    Grid (padded B / FLAG_ROWS * num_flags / BLOCK, rounded up,).
    """
    write_flags(
        labels_ptr, flags_ptr, tl.program_id(0), num_rows, num_classes, num_flags, 1, -1, BLOCK
    )


@triton.jit
def write_flags(
    labels_ptr, flags_ptr, program, num_rows, num_classes, num_flags, label_stride, ignore_index,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The flags of one block of rows and BLOCK tiles of classes."""
    blocks = tl.cdiv(num_flags, BLOCK)
    row_block = program // blocks
    rows = row_block * FLAG_ROWS + tl.arange(0, FLAG_ROWS)
    tiles = program % blocks * BLOCK + tl.arange(0, BLOCK)
    is_row = rows < num_rows
    labels = tl.load(labels_ptr + rows.to(tl.int64) * label_stride, mask=is_row, other=0).to(
        tl.int64
    )
    is_class = is_row & (labels != ignore_index) & (labels >= 0) & (labels < num_classes)
    held = tl.where(is_class, labels // FLAG_CLASSES, -1).to(tl.int32)
    flags = tl.max((held[:, None] == tiles[None, :]).to(tl.int32), axis=0)
    flags = tl.where((tiles + 1) * FLAG_CLASSES > num_classes, 1, flags)
    out = flags_ptr + row_block.to(tl.int64) * num_flags + tiles
    tl.store(out, flags.to(tl.int8), mask=tiles < num_flags)


@triton.jit
def target_cosine_kernel(
    # (B, dim), (C, dim), (B,) -> (B,), (B,)
    x_ptr, w_ptr, labels_ptr, cos_y_ptr, norms_ptr,
    dim, x_row_stride, x_column_stride, w_row_stride, w_column_stride,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Target cosine (of class 0 where the label is -1) and length of one row, in float32; grid (B,)."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.maximum(tl.load(labels_ptr + row), 0)
    offs_d = tl.arange(0, BLOCK_D)
    mask = offs_d < dim
    x = tl.load(
        x_ptr + row * x_row_stride + offs_d.to(tl.int64) * x_column_stride, mask=mask, other=0.0
    )
    w = tl.load(
        w_ptr + label * w_row_stride + offs_d.to(tl.int64) * w_column_stride, mask=mask, other=0.0
    )
    x, w = x.to(tl.float32), w.to(tl.float32)
    squares = tl.sum(rounded_product(x, x), axis=0)
    inverse = inverse_norm(squares, x_ptr.dtype.element_ty)
    inverse *= inverse_norm(tl.sum(rounded_product(w, w), axis=0), w_ptr.dtype.element_ty)
    tl.store(cos_y_ptr + row, tl.sum(rounded_product(x, w), axis=0) * inverse)
    tl.store(norms_ptr + row, tl.sqrt(squares))


@triton.jit(
    do_not_specialize=["num_rows", "num_padded", "num_parts"],
    do_not_specialize_on_alignment=["outer_ptr"],
)
def embedding_gradient_kernel(
    # in: parts of the gradient (num_parts, B, DIM); factors (4 or, with a length, 5, padded B); from kept
    # exponentials v as they have it (padded B,); 0-d, 0-d
    parts_ptr, factors_ptr, rounded_v_ptr, unscale_ptr, outer_ptr,
    # (B, dim), (C, dim), unit rows (C, DIM), (B,), (B,), (C,) -> (B, dim)
    x_ptr, w_ptr, unit_w_ptr, labels_ptr, inverse_x_ptr, inverse_w_ptr, d_embeddings_ptr,
    num_rows, num_padded, num_parts, dim, x_row_stride, x_column_stride, w_row_stride, w_column_stride,
    DIM: tl.constexpr, IS_DIRECTION: tl.constexpr, IS_KEPT: tl.constexpr, WITH_LENGTH: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Add up one row, project it and divide by the length; grid (B,).

    A direction still lacks its factor a and the target's share v w_y. Other parts hold that share, often
    the largest term, but computed with rounded operands: it is replaced by the share in float32. Parts from
    kept exponentials lack the factor, and `scaled_rows_kernel` has rounded the share's v.
    """
    row = tl.program_id(0).to(tl.int64)
    offs_d = tl.arange(0, BLOCK_D)
    mask = offs_d < dim
    d_unit = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for i in range(num_parts):
        part = parts_ptr + (i * num_rows + row) * DIM + offs_d
        d_unit += tl.load(part, mask=mask, other=0.0)
    label = tl.maximum(tl.load(labels_ptr + row), 0)
    w_ptrs = w_ptr + label * w_row_stride + offs_d.to(tl.int64) * w_column_stride
    w = tl.load(w_ptrs, mask=mask, other=0.0).to(tl.float32) * tl.load(inverse_w_ptr + label)
    v = tl.load(factors_ptr + 2 * num_padded + row)
    if IS_DIRECTION:
        d_unit = d_unit * tl.load(factors_ptr + 3 * num_padded + row) + v * w
    else:
        rounded_v = as_operand(v, unit_w_ptr.dtype.element_ty, PRECISION)
        if IS_KEPT:
            d_unit = d_unit * tl.load(factors_ptr + 3 * num_padded + row)
            rounded_v = tl.load(rounded_v_ptr + row)
        rounded_w = tl.load(unit_w_ptr + label * DIM + offs_d, mask=mask, other=0.0)
        d_unit += v * w - rounded_v.to(tl.float32) * rounded_w.to(tl.float32)
    inverse = tl.load(inverse_x_ptr + row)
    x_ptrs = x_ptr + row * x_row_stride + offs_d.to(tl.int64) * x_column_stride
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32) * inverse
    along = tl.sum(rounded_product(d_unit, x), axis=0)
    outer = tl.load(outer_ptr)
    d_x = (d_unit - along * x) * (inverse * (tl.load(unscale_ptr) * outer))
    if WITH_LENGTH:
        d_x += tl.load(factors_ptr + LENGTH_FACTOR * num_padded + row) * outer * x
    out = d_embeddings_ptr + row * dim + offs_d
    tl.store(out, d_x.to(d_embeddings_ptr.dtype.element_ty), mask=mask)
