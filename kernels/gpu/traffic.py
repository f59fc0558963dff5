"""Flops and bytes of one step, kernel by kernel; held against the recorded launches in the tests.

Flops are those of the matrix products. Bytes count every operand once, read or written: what reaches
the memory if what neighbouring programs share stays in the cache. Coefficients of a chunk are counted apart
(`scratch`), because they are meant to stay in the cache. Kernels that touch B rows alone are left out.
"""

from typing import NamedTuple

from fusedface.kernels.gpu import layout

FLOAT32 = 4
LABEL_AND_THRESHOLD = 8 + FLOAT32  # of one row
NUM_TOTALS, NUM_FACTORS, NUM_STATS = 6, 3, 5  # numbers a row: flash.py, rows.py, NegativeStats


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

    def unit_bytes(self, num: int) -> int:
        """Bytes of `num` unit rows."""
        itemsize = layout.OPERANDS[self.precision].dtype.itemsize
        return num * layout.padded_dim(self.dim, self.precision) * itemsize


def forward(problem: Problem, with_gradients: bool, num_splits: int) -> list[Pass]:
    """Unit class centres, the sums over the classes and their combination."""
    rows, classes, dim, _, itemsize = problem
    has_direction = with_gradients and problem.is_narrow
    direction = rows * layout.padded_dim(dim, problem.precision) * has_direction
    sums = FLOAT32 * num_splits * (NUM_TOTALS * rows + direction)
    units = problem.unit_bytes(rows + classes)
    return [
        Pass(
            "unit_rows_kernel",
            0,
            classes * (dim * itemsize + FLOAT32) + problem.unit_bytes(classes),
        ),
        Pass(
            "flash_kernel" if has_direction else "lse_kernel",
            problem.product * (1 + has_direction),
            units + rows * LABEL_AND_THRESHOLD + FLOAT32 + sums,
        ),
        Pass(
            "combine_kernel",
            0,
            sums + FLOAT32 * (1 + (1 + NUM_STATS) * rows + direction),
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
    per_row = rows * (LABEL_AND_THRESHOLD + NUM_FACTORS * FLOAT32) + FLOAT32
    x, w = problem.unit_bytes(rows), problem.unit_bytes(classes)
    d_weight = classes * (dim * itemsize + FLOAT32) + FLOAT32  # with inverse lengths; unscale
    if problem.is_narrow:
        return [Pass("centre_gradient_kernel", 2 * problem.product, x + w + per_row + d_weight)]
    chunk = layout.chunk_classes(rows, classes)
    chunks = layout.ceil_div(classes, chunk)
    covered = layout.ceil_div(classes, layout.CHUNK_MULTIPLE) * layout.CHUNK_MULTIPLE
    g = rows * covered * layout.OPERANDS[precision].dtype.itemsize
    along = num_blocks * covered * FLOAT32
    parts = num_parts * rows * layout.padded_dim(dim, precision) * FLOAT32
    return [
        Pass("coefficients_kernel", problem.product, chunks * (x + per_row) + w, g + along),
        Pass("embedding_product_kernel", problem.product, w + 2 * chunks * parts, g),
        Pass("centre_product_kernel", problem.product, chunks * x + w + d_weight, g + along),
    ]


def floor_ms(passes: list[Pass], flops_per_second: float, bytes_per_second: float) -> float:
    """No step is faster: each pass takes the longer of its products and its bytes, in milliseconds."""
    return 1e3 * sum(max(p.flops / flops_per_second, p.bytes / bytes_per_second) for p in passes)
