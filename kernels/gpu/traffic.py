"""Flops and bytes of one step, kernel by kernel; tests compare them with the recorded launches.

Flops are those of the matrix products. Bytes count every operand once, read or written. This is the
traffic of the memory if data that neighbouring programs share stays in the cache. Coefficients are counted
apart (`scratch`): a chunk of `layout.CHUNK_BYTES` stays in the cache. Kernels on only B rows are left out.
"""

from typing import NamedTuple

from fusedface.kernels.gpu import layout
from fusedface.kernels.gpu.tiles import Tile

FLOAT32 = 4
LABEL = 8
NUM_TOTALS, NUM_FACTORS, NUM_STATS = 6, 4, 5  # numbers a row: tile.py, reductions.py, NegativeStats


class Pass(NamedTuple):
    """All launches of one kernel in a step."""

    kernel: str
    flops: int
    bytes: int
    scratch: int = 0


class Problem(NamedTuple):
    """B, C, D, the precision of the products, and bytes per number of the weight and its gradient."""

    rows: int
    classes: int
    dim: int
    precision: str = "bfloat16"
    itemsize: int = FLOAT32

    @property
    def is_narrow(self) -> bool:
        """Whether the narrow one of the two schedules runs."""
        return layout.is_narrow(self.dim, self.precision)

    @property
    def padded_dim(self) -> int:
        """Columns of a unit row."""
        return layout.padded_dim(self.dim, self.precision)

    @property
    def product(self) -> int:
        """Flops of all cosines, or of the gradient of one operand from its coefficients."""
        return 2 * self.rows * self.classes * self.padded_dim

    @property
    def unit_row(self) -> int:
        """Bytes of a unit row."""
        itemsize = layout.OPERANDS[self.precision].dtype.itemsize
        return self.padded_dim * itemsize

    @property
    def x(self) -> int:
        """Bytes of all unit embeddings."""
        return layout.padded_rows(self.rows) * self.unit_row

    @property
    def w(self) -> int:
        """Bytes of all unit class centres."""
        return layout.padded_classes(self.classes) * self.unit_row

    @property
    def flags(self) -> int:
        """Bytes of the flags of tiles."""
        row_blocks = layout.padded_rows(self.rows) // layout.FLAG_ROWS
        return row_blocks * layout.num_flags(self.classes)


def forward(problem: Problem, with_gradients: bool, num_splits: int) -> list[Pass]:
    """Unit class centres, the sums over the classes and their combination."""
    rows, classes, dim, _, itemsize = problem
    has_direction = with_gradients and problem.is_narrow
    direction = rows * problem.padded_dim * has_direction
    sums = FLOAT32 * num_splits * (NUM_TOTALS * rows + direction)
    per_row = rows * (LABEL + FLOAT32) + FLOAT32  # label and threshold; linear
    return [
        Pass(
            "unit_rows_kernel",
            0,
            classes * dim * itemsize + FLOAT32 * layout.padded_classes(classes) + problem.w,
        ),
        Pass(
            "flash_kernel" if has_direction else "lse_kernel",
            problem.product * (1 + has_direction),
            problem.x + problem.w + per_row + problem.flags + sums,
        ),
        Pass(
            "combine_kernel",
            0,
            sums + per_row + FLOAT32 * ((1 + NUM_STATS) * rows + direction),
        ),
    ]


def backward(problem: Problem, num_parts: int = 0, num_blocks: int = 0) -> list[Pass]:
    """The gradient of the class centres and, for the wide schedule, of the embeddings.

    Args:
        problem: the sizes.
        num_parts: parts of the gradient of the embeddings (`layout.split_chunk`), in the wide schedule.
        num_blocks: row blocks of the coefficients; only in the wide schedule.
    """
    rows, classes, dim, precision, itemsize = problem
    per_row = rows * LABEL + layout.padded_rows(rows) * NUM_FACTORS * FLOAT32 + FLOAT32
    x, w, flags = problem.x, problem.w, problem.flags
    inverse = FLOAT32 * layout.padded_classes(classes)
    d_weight = classes * dim * itemsize + inverse + 2 * FLOAT32  # unscale, outer
    if problem.is_narrow:
        num_bytes = x + w + per_row + flags + d_weight
        return [Pass("centre_gradient_kernel", 2 * problem.product, num_bytes)]
    chunk = layout.chunk_classes(rows, classes, problem.padded_dim, precision)
    chunks = layout.ceil_div(classes, chunk)
    covered = layout.ceil_div(classes, layout.CHUNK_MULTIPLE) * layout.CHUNK_MULTIPLE
    g = layout.padded_rows(rows) * covered * layout.OPERANDS[precision].dtype.itemsize
    along = num_blocks * covered * FLOAT32
    parts = num_parts * rows * problem.padded_dim * FLOAT32
    return [
        Pass("coefficients_kernel", problem.product, chunks * (x + per_row) + w + flags, g + along),
        Pass(
            "products_kernel",
            2 * problem.product,
            w + chunks * x + (2 * chunks - 1) * parts + d_weight,
            2 * g + along,
        ),
    ]


def from_l2(problem: Problem, tiles: dict[str, Tile], num_splits: int) -> dict[str, int]:
    """Traffic with L2 in bytes, by kernel: operands that programs read and coefficients that they write.

    A program reads the operands of each of its tiles again, so this falls as tiles grow. Numbers of a row
    and of a class are left out.

    Args:
        problem: the sizes.
        tiles: the tile shape of each kernel that runs, by its name in the tables.
        num_splits: programs that share the classes of a block of rows.
    """
    rows, classes, row = layout.padded_rows(problem.rows), problem.classes, problem.unit_row
    itemsize = row // problem.padded_dim
    found = {}
    for name, tile in tiles.items():
        blocks = layout.ceil_div(problem.rows, tile.block_b)
        class_blocks = layout.ceil_div(classes, tile.block_c)
        pairs = blocks * class_blocks * (tile.block_b + tile.block_c) * row
        if name == "flash":
            w = class_blocks * tile.block_c * row
            found["flash_kernel"] = blocks * (w + num_splits * tile.block_b * row)
        elif name == "lse":
            found["lse_kernel"] = pairs
        elif name == "centres":
            batch = blocks * tile.block_b * row
            found["centre_gradient_kernel"] = class_blocks * (batch + 2 * tile.block_c * row)
        elif name == "coefficients":
            g = rows * class_blocks * tile.block_c * itemsize
            found["coefficients_kernel"] = pairs + g
        else:
            columns = problem.padded_dim // tile.block_d
            sides = (tile.block_b + tile.block_d) * blocks * class_blocks * tile.block_c
            sides += (tile.block_c + tile.block_d) * class_blocks * blocks * tile.block_b
            found["products_kernel"] = columns * sides * itemsize
    return found


def floor_ms(passes: list[Pass], flops_per_second: float, bytes_per_second: float) -> float:
    """A lower bound of a step in milliseconds: each pass takes the longer of its products and its bytes."""
    return 1e3 * sum(max(p.flops / flops_per_second, p.bytes / bytes_per_second) for p in passes)
