"""Device helpers: a tile of cosines, N of these, rounding to operands.

Legend: x (B, D), w (C, D) unit rows in the operand dtype, `cos` [BLOCK_B, BLOCK_C], `hard` 1 where
a negative is hard and 0 elsewhere. Logits are kept in base 2, log2(e) s N, because exp2 is one hardware
instruction.

Work on every logit avoids the slower arithmetic pipe: a comparison and a selection would take it, a
saturating fused multiply-add does not.
"""

import triton
import triton.language as tl

# How a hard negative is re-weighted (Reweighting): not at all, linearly, by a quadratic through the origin,
# or by any quadratic.
PLAIN, LINEAR, QUADRATIC, FULL = (
    tl.constexpr(0),
    tl.constexpr(1),
    tl.constexpr(2),
    tl.constexpr(3),
)

# The cosine of a column that is not a negative: never hard, never largest, its exponential is
# 0. Finite, as its square is, so that a tile without any negative gives 0 and not inf - inf.
ABSENT = tl.constexpr(-1e15)
NO_LARGEST = tl.constexpr(-1e12)  # above ABSENT, below every cosine
INFINITE = tl.constexpr(float("inf"))
STEEP = tl.constexpr(2.0**100)  # times a difference of two float32 cosines: at least 1, or 0
LOG2_E = tl.constexpr(1.4426950408889634)
PANEL = tl.constexpr(64)  # columns of a tile of cosines that are worked on at a time
FLAG_ROWS, FLAG_CLASSES = tl.constexpr(64), tl.constexpr(64)  # the tile that one flag covers


@triton.jit
def wide_index(index):
    """`index` in 64 bits: times the length of a row it can pass 2^31."""
    return tl.full((), 0, tl.int64) + index


@triton.jit
def is_flagged(flags_ptr, row, column, num_flags, ROWS: tl.constexpr, CLASSES: tl.constexpr):
    """Whether a tile holds a target or ends the classes: the same for a whole program.

    `flags` has a number for every FLAG_ROWS rows and FLAG_CLASSES classes, `num_flags` of them in a row;
    the tile of ROWS x CLASSES begins in `row` and `column` of it.
    """
    flag_ptr = flags_ptr + wide_index(row) * num_flags + column
    flag = tl.load(flag_ptr)
    for i in tl.static_range(0, ROWS // FLAG_ROWS + (ROWS < FLAG_ROWS)):
        for j in tl.static_range(0, CLASSES // FLAG_CLASSES + (CLASSES < FLAG_CLASSES)):
            if i + j > 0:
                flag |= tl.load(flag_ptr + i * num_flags + j)
    return flag != 0


@triton.jit
def without_targets(cos, labels, columns, num_classes):
    """`cos` with ABSENT at the targets and past the last class."""
    absent = (labels[:, None] == columns[None, :]) | (columns >= num_classes)[None, :]
    return tl.where(absent, ABSENT, cos)


@triton.jit
def sliced_cosines(
    x_ptr, w_ptr, first_row, first_class,
    DIM: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Cosines [BLOCK_B, BLOCK_C] of rows of x and of w, slice by slice of D; each slice is read again."""
    cos = tl.zeros((BLOCK_B, BLOCK_C), dtype=tl.float32)
    offs_k = tl.arange(0, BLOCK_K)
    # One 64-bit pointer to each tile; the offsets within it fit 32 bits.
    x_tile = x_ptr + wide_index(first_row) * DIM
    w_tile = w_ptr + wide_index(first_class) * DIM
    x_offsets = tl.arange(0, BLOCK_B)[:, None] * DIM + offs_k[None, :]
    w_offsets = tl.arange(0, BLOCK_C)[:, None] * DIM + offs_k[None, :]
    for _ in range(0, DIM, BLOCK_K):
        x = tl.load(x_tile + x_offsets)
        w = tl.load(w_tile + w_offsets)
        cos = tl.dot(x, tl.trans(w), cos, input_precision=PRECISION)
        x_tile += BLOCK_K
        w_tile += BLOCK_K
    return cos


@triton.jit
def threshold_step(threshold):
    """The argument of `hard_step` for a threshold; with +inf nothing is hard."""
    return threshold * -STEEP


@triton.jit
def hard_step(cos, step):
    """1 where cos > threshold, else 0: (cos - threshold) 2^100 between 0 and 1, one instruction."""
    steep = tl.full(cos.shape, STEEP, tl.float32)
    return tl.clamp(tl.fma(cos, steep, tl.broadcast_to(step, cos.shape)), 0.0, 1.0)


# N comes as numbers that are ready to multiply, from the host (`forward.Numbers.scalars`): `scale`,
# `square` and `constant` are those of log2(e) s N, `bend` is 2 square of N itself. Of `linear`, which is
# on the device, kernels take `line`, linear - 1.
@triton.jit
def logits(cos, hard, offset, scale, square, line, constant, MODE: tl.constexpr):
    """log2(e) s N(cos) + offset."""
    if MODE == PLAIN:
        value = cos * scale + offset
    elif MODE == LINEAR:
        value = cos * (hard * (line * scale) + scale) + (hard * constant + offset)
    else:
        if MODE == FULL:
            offset = hard * constant + offset
        factor = hard * (cos * square + line * scale) + scale
        value = cos * factor + offset
    return value


@triton.jit
def lifts(cos, hard, bend, line, MODE: tl.constexpr):
    """N'(cos) - 1: 0 for an easy negative."""
    slope = line if MODE == LINEAR else cos * bend + line
    return hard * slope


@triton.jit
def as_operand(values, dtype: tl.constexpr, PRECISION: tl.constexpr):
    """Float32 values rounded to the operand dtype of a product."""
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
def inverse_length(squares, shortest):
    """1 / sqrt(squares): 0 up to the length `shortest`, NaN past the squares."""
    norm = tl.sqrt(squares)
    inverse = tl.where(norm > shortest, 1.0 / tl.maximum(norm, shortest), 0.0)
    return tl.where(norm == float("inf"), float("nan"), inverse)


@triton.jit
def lane_sums(values):
    """[BLOCK_B, BLOCK_C] -> [BLOCK_B, 4]: sums over the columns that one thread holds, without a shuffle.

    In the layout of a product, a thread has two neighbouring columns of each eight.
    """
    folded = tl.reshape(values, (values.shape[0], values.shape[1] // 8, 4, 2))
    return tl.sum(tl.sum(folded, axis=3), axis=1)


@triton.jit
def lane_maxima(values):
    """The same with maxima."""
    folded = tl.reshape(values, (values.shape[0], values.shape[1] // 8, 4, 2))
    return tl.max(tl.max(folded, axis=3), axis=1)


@triton.jit
def ordered_bits(values):
    """Integers in the order of float32 numbers of 0 or more; a number below 0 is below 0.

    sm_90 takes the largest of three integers in one instruction, and of two floats.
    """
    return values.to(tl.int32, bitcast=True)


@triton.jit
def panels(tile):
    """The left and the right half of a tile's columns: worked on in turn, they take fewer registers.

    In the layout of a product both halves are in registers of the same threads.
    """
    halves = tl.reshape(tile, (tile.shape[0], 2, tile.shape[1] // 2))
    return tl.split(tl.permute(halves, (0, 2, 1)))


@triton.jit
def most_lift(bend, line):
    """An upper bound of |N'(cos) - 1| over all cosines."""
    return bend + tl.abs(line) + 1.0


@triton.jit
def store_totals(
    totals_ptr, split, rows, num_rows, num_splits,
    largest, total, max_cos, num_hard, least, sum_lift,
):  # fmt: skip
    """Write one split's row of each of the six totals, (6, num_splits, B); all but `largest` in lanes."""
    mask = rows < num_rows
    ptrs = totals_ptr + split * num_rows + rows
    step = num_splits * num_rows
    tl.store(ptrs, largest, mask=mask)
    tl.store(ptrs + step, tl.sum(total, axis=1), mask=mask)
    tl.store(ptrs + 2 * step, tl.max(max_cos, axis=1), mask=mask)
    tl.store(ptrs + 3 * step, tl.sum(num_hard, axis=1), mask=mask)
    tl.store(ptrs + 4 * step, tl.max(least, axis=1), mask=mask)
    tl.store(ptrs + 5 * step, tl.sum(sum_lift, axis=1), mask=mask)


@triton.jit
def log1p_of(y):
    """log(1 + y) for y in [0, 1], as the series 2 artanh(y / (2 + y)): exact for tiny y."""
    z = y / (2.0 + y)
    s = z * z
    tail = ((0.0666666667 * s + 0.0769230769) * s + 0.0909090909) * s + 0.1111111111
    tail = ((tail * s + 0.1428571429) * s + 0.2) * s + 0.3333333333
    return 2.0 * (tail * s * z + z)
