"""Sizes: padding, which schedule, splits of the classes, chunks of classes; arithmetic on the host."""

import math
from typing import NamedTuple

import torch

NARROW_BYTES = 512  # of a padded unit row: two tiles of such rows and the sums fit one program
WIDE_MULTIPLE = 128  # columns: the largest BLOCK_D of gradients.py
SMALLEST_BLOCK = 16  # that tl.dot takes
# Bytes of a chunk's coefficients: as many as stay in the L2 of an H100, or a share of the bytes of the unit
# class centres, which a step holds anyway. So even many classes are at most a dozen chunks at B = 2 D.
CHUNK_BYTES, CHUNK_SHARE = 42 * 2**20, 6
# Kernels find their way in 32 bits within a chunk's coefficients, and within a tile of kept exponentials.
LARGEST_OFFSET = 2**31 - 1
# The same for the gradient of the class centres that learn in the backward: of a share of their own bytes,
# so that the host starts kernels for at most a few dozen chunks.
UPDATE_SHARE = 64
CHUNK_MULTIPLE = 256  # classes: the largest BLOCK_C of gradients.py
ROW_MULTIPLE = 128  # rows of unit embeddings, flags and factors: the largest BLOCK_B
CLASS_MULTIPLE = (
    256  # unit class centres: the largest BLOCK_C, and the columns of flags with FLAG_CLASSES
)
FLAG_ROWS, FLAG_CLASSES = 64, 64  # of tile.py
UPDATE_MULTIPLE = 16 * FLAG_CLASSES  # classes: the flags of a chunk are aligned to 16 bytes
MIN_CLASSES_PER_PART = 512  # of the product with w: shorter sums cost more in parts than they win
ALIGNMENT = 512  # bytes, of what lies in one piece of memory: that of PyTorch's allocator
INTERPRETED_MULTIPROCESSORS = 3  # on a CPU: enough for several splits


class Operands(NamedTuple):
    """How products are computed in a precision."""

    dtype: torch.dtype
    dot: str  # input_precision of tl.dot
    shift: int  # weights are carried times 2^shift


# Float16 would lose weights below 6e-8; 2^12 still leaves a modulation of 15 below its largest number.
# tf32x3 adds up three tf32 products: float32 within a few units in the last place, on tensor cores.
OPERANDS = {
    "float16": Operands(torch.float16, "ieee", 12),
    "bfloat16": Operands(torch.bfloat16, "ieee", 0),
    "tf32": Operands(torch.float32, "tf32", 0),
    "float32": Operands(torch.float32, "tf32x3", 0),
}


def operands(precision: str) -> Operands:
    """See `OPERANDS`. AMD has no tf32x3: there float32 is plain."""
    chosen = OPERANDS[precision]
    if chosen.dot.startswith("tf32") and torch.version.hip:
        return chosen._replace(dot="ieee")
    return chosen


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def aligned_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of a tensor in a piece of memory with others."""
    return ceil_div(math.prod(shape) * dtype.itemsize, ALIGNMENT) * ALIGNMENT


def power_of_2(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def is_narrow(dim: int, precision: str) -> bool:
    """Whether kernels hold whole rows of `dim` numbers; else they read rows in slices.

    Float32 as three products does not fit their registers at any useful D (it spills at 128).
    """
    itemsize = OPERANDS[precision].dtype.itemsize
    return precision != "float32" and power_of_2(dim) * itemsize <= NARROW_BYTES


def has_direction(dim: int, precision: str, needs_embeddings: bool) -> bool:
    """Whether the forward computes the gradient's direction in its own pass."""
    return needs_embeddings and is_narrow(dim, precision)


def padded_dim(dim: int, precision: str) -> int:
    """Columns of a padded unit row: a multiple of the tiles of the schedule."""
    if is_narrow(dim, precision) or dim <= WIDE_MULTIPLE:
        return max(SMALLEST_BLOCK, power_of_2(dim))
    return ceil_div(dim, WIDE_MULTIPLE) * WIDE_MULTIPLE


def padded_rows(rows: int) -> int:
    """Number of rows with padding to whole tiles; padding holds zeros, or numbers without effect."""
    return ceil_div(rows, ROW_MULTIPLE) * ROW_MULTIPLE


def padded_classes(classes: int) -> int:
    """Number of class centres with padding to whole tiles."""
    return ceil_div(classes, CLASS_MULTIPLE) * CLASS_MULTIPLE


def num_flags(classes: int) -> int:
    """Flags of a block of rows (`rows.flags_kernel`)."""
    return padded_classes(classes) // FLAG_CLASSES


def flags_shape(rows: int, classes: int) -> tuple[int, int]:
    """Of the flags of all blocks of rows."""
    return padded_rows(rows) // FLAG_ROWS, num_flags(classes)


def kept_shape(rows: int, classes: int, keeps: bool) -> tuple[int, int]:
    """Of the exponentials that a forward keeps (kept.py); empty without."""
    return (padded_rows(rows), padded_classes(classes)) if keeps else (0, 0)


class Reference(NamedTuple):
    """The reference of exponentials (log_sum_exp.py): the same for all rows, or the running maximum."""

    fixed: bool
    top: float  # the largest exponential is 2^top at most, so that a sum over all classes is finite
    least_total: float  # a sum below it may have lost terms: float32 ends at 2^-126


def reference(scale_log2: float, bound: float, classes: int) -> Reference:
    """A fixed reference, if its window holds every row that has a negative with N >= 0.

    A factor of up to 2^4 is reserved for cosines that rounding lifts above 1 and for the slope. Terms that
    underflow add up to less than 2^-14 of the sum, which is an eighth of bfloat16's step.

    Args:
        scale_log2: s log2(e).
        bound: the largest N of any cosine.
        classes: C.
    """
    log2_classes = (classes - 1).bit_length()
    top, floor = 123 - log2_classes, log2_classes - 112
    return Reference(1.01 * scale_log2 * bound <= top - floor, top, 2.0**floor)


class Splits(NamedTuple):
    """The classes in `num` runs of `tiles` tiles, for each of `blocks` blocks of rows."""

    blocks: int
    num: int
    tiles: int


def split_classes(rows: int, classes: int, block_b: int, block_c: int, programs: int) -> Splits:
    """One wave of `programs` at a time; set by shapes and device, so that sums keep their order."""
    blocks, tiles = ceil_div(rows, block_b), ceil_div(classes, block_c)
    wanted = max(1, programs // blocks)
    tiles_per_split = ceil_div(tiles, min(wanted, tiles))
    return Splits(blocks, ceil_div(tiles, tiles_per_split), tiles_per_split)


def unit_bytes(shape: torch.Size, precision: str) -> int:
    """Bytes of the unit rows of all class centres of this shape (C, D), and of their inverse lengths."""
    classes, dim = shape
    row = padded_dim(dim, precision) * OPERANDS[precision].dtype.itemsize
    return padded_classes(classes) * (row + 4)


def chunk_classes(rows: int, classes: int, dim: int, precision: str) -> int:
    """Classes per chunk of coefficients, in chunks of one size: see `CHUNK_BYTES`; `dim` is padded."""
    itemsize = OPERANDS[precision].dtype.itemsize
    budget = max(CHUNK_BYTES, classes * dim * itemsize // CHUNK_SHARE)
    held = min(budget // itemsize, LARGEST_OFFSET)
    fitting = held // padded_rows(rows) // CHUNK_MULTIPLE * CHUNK_MULTIPLE
    num = ceil_div(classes, max(fitting, CHUNK_MULTIPLE))
    return ceil_div(ceil_div(classes, num), CHUNK_MULTIPLE) * CHUNK_MULTIPLE


def update_classes(rows: int, classes: int, dim: int, precision: str) -> int:
    """Classes per chunk where they learn in the backward.

    Their float32 gradient and, in the wide schedule, their coefficients fit `CHUNK_BYTES`, or else a share
    of the class centres' own bytes.
    """
    coefficients = 0 if is_narrow(dim, precision) else padded_rows(rows)
    per_class = 4 * dim + coefficients * OPERANDS[precision].dtype.itemsize
    fitting = max(CHUNK_BYTES, 4 * dim * classes // UPDATE_SHARE) // per_class
    if coefficients:
        fitting = min(fitting, LARGEST_OFFSET // coefficients)
    num = ceil_div(classes, max(fitting // UPDATE_MULTIPLE * UPDATE_MULTIPLE, UPDATE_MULTIPLE))
    return ceil_div(ceil_div(classes, num), UPDATE_MULTIPLE) * UPDATE_MULTIPLE


class Parts(NamedTuple):
    """A chunk's product with w in `num` parts of `classes` classes."""

    num: int
    classes: int


def split_chunk(tiles: int, chunk: int, programs: int) -> Parts:
    """As many parts as fill a device that runs `programs` at a time; the result has `tiles` tiles."""
    wanted = max(1, programs // tiles)
    num = min(wanted, max(1, chunk // MIN_CLASSES_PER_PART))
    classes = ceil_div(ceil_div(chunk, num), CHUNK_MULTIPLE) * CHUNK_MULTIPLE
    return Parts(ceil_div(chunk, classes), classes)


def bucket(n: int) -> int:
    """The power of two that represents n in a tuning key, so that a new batch size tunes nothing again."""
    return power_of_2(max(n, 16))


def memory(device: torch.device) -> int | None:
    """Bytes of a GPU's memory; None for another device."""
    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).total_memory


def processors(device: torch.device) -> int:
    """Multiprocessors of a device."""
    if device.type != "cuda":
        return INTERPRETED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
