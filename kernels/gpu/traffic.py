"""Flops and bytes of one step, kernel by kernel; held against the recorded launches in the tests.

Flops are those of the matrix products. Bytes count every operand once, read or written: what reaches
the memory if what neighbouring programs share stays in the cache. Coefficients of a chunk are counted apart
(`scratch`), because they are meant to stay in the cache. Kernels that touch B rows alone are left out.
"""

from typing import NamedTuple

from fusedface.kernels.gpu import layout

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
    """B, C, D, the precision of the products and the bytes of a number of weight and its gradient."""

    rows: int
    classes: int
    dim: int
    precision: str = "bfloat16"
    itemsize: int = FLOAT32

    @property
    def is_narrow(self) -> bool:
        """Which of the two schedules runs."""
        return layout.is_narrow(self.dim, self.precision)

    @property
    def product(self) -> int:
        """Flops of all cosines, or of the gradient of one operand from its coefficients."""
        return 2 * self.rows * self.classes * layout.padded_dim(self.dim, self.precision)

    @property
    def unit_row(self) -> int:
        """Bytes of a unit row."""
        itemsize = layout.OPERANDS[self.precision].dtype.itemsize
        return layout.padded_dim(self.dim, self.precision) * itemsize

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
    direction = rows * layout.padded_dim(dim, problem.precision) * has_direction
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
        num_parts: parts of the gradient of the embeddings (`layout.split_chunk`); wide schedule alone.
        num_blocks: row blocks of the coefficients; wide schedule alone.
    """
    rows, classes, dim, precision, itemsize = problem
    per_row = rows * LABEL + layout.padded_rows(rows) * NUM_FACTORS * FLOAT32 + FLOAT32
    x, w, flags = problem.x, problem.w, problem.flags
    inverse = FLOAT32 * layout.padded_classes(classes)
    d_weight = classes * dim * itemsize + inverse + FLOAT32  # unscale
    if problem.is_narrow:
        num_bytes = x + w + per_row + flags + d_weight
        return [Pass("centre_gradient_kernel", 2 * problem.product, num_bytes)]
    chunk = layout.chunk_classes(rows, classes)
    chunks = layout.ceil_div(classes, chunk)
    covered = layout.ceil_div(classes, layout.CHUNK_MULTIPLE) * layout.CHUNK_MULTIPLE
    g = layout.padded_rows(rows) * covered * layout.OPERANDS[precision].dtype.itemsize
    along = num_blocks * covered * FLOAT32
    parts = num_parts * rows * layout.padded_dim(dim, precision) * FLOAT32
    return [
        Pass("coefficients_kernel", problem.product, chunks * (x + per_row) + w + flags, g + along),
        Pass("embedding_product_kernel", problem.product, w + 2 * chunks * parts, g),
        Pass("centre_product_kernel", problem.product, chunks * x + w + d_weight, g + along),
    ]


def floor_ms(passes: list[Pass], flops_per_second: float, bytes_per_second: float) -> float:
    """No step is faster: each pass takes the longer of its products and its bytes, in milliseconds."""
    return 1e3 * sum(max(p.flops / flops_per_second, p.bytes / bytes_per_second) for p in passes)
