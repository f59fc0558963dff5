"""Device helpers: a tile of cosines, what N makes of them, rounding to operands.

Legend: x (B, D), w (C, D) unit rows in the operand dtype, `cos` [BLOCK_B, BLOCK_C], `reweighted` = N(cos).
Logits are kept in base 2, log2(e) s N, because exp2 is one hardware instruction.
"""

import triton
import triton.language as tl

# How a hard negative is re-weighted (Reweighting): not at all, linearly, or by the whole quadratic.
PLAIN, LINEAR, QUADRATIC = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)

# The cosine of a column that is no negative: never hard, never largest, its exponential is
# 0. Finite, as its square is, so that a tile without any negative gives 0 and not inf - inf.
ABSENT = tl.constexpr(-1e15)
NO_LARGEST = tl.constexpr(-1e12)  # above ABSENT, below every cosine
INFINITE = tl.constexpr(float("inf"))


@triton.jit
def negative_cosines(x, w, labels, columns, num_classes, PRECISION: tl.constexpr):
    """Cosines [BLOCK_B, BLOCK_C] of x [BLOCK_B, D] and w [BLOCK_C, D], ABSENT where no negative."""
    cos = tl.dot(x, tl.trans(w), input_precision=PRECISION)
    return without_targets(cos, labels, columns, num_classes)


@triton.jit
def without_targets(cos, labels, columns, num_classes):
    """`cos` with ABSENT at the targets and past the last class."""
    absent = (labels[:, None] == columns[None, :]) | (columns >= num_classes)[None, :]
    return tl.where(absent, ABSENT, cos)


@triton.jit
def sliced_cosines(
    x_ptr, w_ptr, rows, columns, num_rows, num_classes,
    DIM: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Cosines [BLOCK_B, BLOCK_C] of rows of x and of w, slice by slice of D; both read anew."""
    cos = tl.zeros((BLOCK_B, BLOCK_C), dtype=tl.float32)
    offs_k = tl.arange(0, BLOCK_K)
    x_ptrs = x_ptr + rows.to(tl.int64)[:, None] * DIM + offs_k[None, :]
    w_ptrs = w_ptr + columns.to(tl.int64)[:, None] * DIM + offs_k[None, :]
    for _ in range(0, DIM, BLOCK_K):
        x = tl.load(x_ptrs, mask=(rows < num_rows)[:, None], other=0.0)
        w = tl.load(w_ptrs, mask=(columns < num_classes)[:, None], other=0.0)
        cos = tl.dot(x, tl.trans(w), cos, input_precision=PRECISION)
        x_ptrs += BLOCK_K
        w_ptrs += BLOCK_K
    return cos


@triton.jit
def reweighted(cos, hard, square, linear, constant, MODE: tl.constexpr):
    """N(cos): the quadratic where hard, cos itself elsewhere."""
    if MODE == PLAIN:
        value = cos
    elif MODE == LINEAR:
        value = tl.where(hard, linear * cos + constant, cos)
    else:
        value = tl.where(hard, (square * cos + linear) * cos + constant, cos)
    return value


@triton.jit
def times_slope(p, cos, hard, square, linear, MODE: tl.constexpr):
    """p N'(cos)."""
    if MODE == PLAIN:
        value = p
    elif MODE == LINEAR:
        value = tl.where(hard, p * linear, p)
    else:
        value = tl.where(hard, p * (2.0 * square * cos + linear), p)
    return value


@triton.jit
def as_operand(values, dtype: tl.constexpr, PRECISION: tl.constexpr):
    """Float32 values rounded to what a product takes."""
    if dtype == tl.float32:
        rounded = values
        if PRECISION == "tf32":
            rounded = rounded_to_tf32(values)
    else:
        rounded = values.to(dtype)
    return rounded


@triton.jit
def rounded_to_tf32(values):
    """To the nearest of 10 bits of fraction; the hardware would cut the rest off, which is biased."""
    bits = values.to(tl.int32, bitcast=True)
    return ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def fold_cosines(cos, hard, max_cos, num_hard, min_hard, sum_hard, MODE: tl.constexpr):
    """Take a tile into the statistics of its rows, each [BLOCK_B]."""
    max_cos = tl.maximum(max_cos, tl.max(cos, axis=1))
    num_hard += tl.sum(hard.to(tl.float32), axis=1)
    if MODE == QUADRATIC:
        min_hard = tl.minimum(min_hard, tl.min(tl.where(hard, cos, INFINITE), axis=1))
        sum_hard += tl.sum(tl.where(hard, cos, 0.0), axis=1)
    return max_cos, num_hard, min_hard, sum_hard


@triton.jit
def store_totals(
    totals_ptr, split, rows, num_rows, num_splits,
    largest, total, max_cos, num_hard, min_hard, sum_hard,
):  # fmt: skip
    """Write one split's row of each of the six totals, (6, num_splits, B)."""
    mask = rows < num_rows
    ptrs = totals_ptr + split * num_rows + rows
    step = num_splits * num_rows
    tl.store(ptrs, largest, mask=mask)
    tl.store(ptrs + step, total, mask=mask)
    tl.store(ptrs + 2 * step, max_cos, mask=mask)
    tl.store(ptrs + 3 * step, num_hard, mask=mask)
    tl.store(ptrs + 4 * step, min_hard, mask=mask)
    tl.store(ptrs + 5 * step, sum_hard, mask=mask)
