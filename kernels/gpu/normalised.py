"""Unit rows in the operand dtype: of all rows at once, or of chunks in turn."""

import torch
from torch import Tensor

from fusedface.kernels.gpu import launch, layout, rows
from fusedface.kernels.gpu.arguments import UnitRows

ROWS_TILE = 16  # class centres normalised by one program


def unit_rows(tensor: Tensor, precision: str, num_padded: int) -> UnitRows:
    """Normalise the rows of `tensor` (N, D), of any strides, and add zeros up to `num_padded`."""
    unit = empty_unit_rows(tensor, precision, num_padded)
    fill_unit_rows(unit, tensor, precision)
    return unit


def empty_unit_rows(tensor: Tensor, precision: str, num_padded: int) -> UnitRows:
    """Memory for `num_padded` unit rows of tensors like this one (N, D)."""
    padded = layout.padded_dim(tensor.shape[1], precision)
    unit = tensor.new_empty(num_padded, padded, dtype=layout.operands(precision).dtype)
    return UnitRows(unit, tensor.new_empty(num_padded, dtype=torch.float32))


def fill_unit_rows(unit: UnitRows, tensor: Tensor, precision: str) -> None:
    """Write the unit rows of `tensor` (N, D), of any strides, and zeros after them."""
    (num, dim), (num_padded, padded) = tensor.shape, unit.rows.shape
    launch.start(
        rows.unit_rows_kernel, num_padded // ROWS_TILE,
        tensor, *unit, num, dim, *tensor.stride(),
        DIM=padded, PRECISION=layout.operands(precision).dot,
        BLOCK_D=layout.power_of_2(padded), BLOCK_N=ROWS_TILE,
    )  # fmt: skip


class Turns:
    """Memory for the unit rows of up to `size` class centres, which all chunks use in turn."""

    def __init__(self, weight: Tensor, size: int, precision: str) -> None:
        self._precision = precision
        self._memory = empty_unit_rows(weight, precision, layout.padded_classes(size))

    def unit_rows(self, weight: Tensor) -> UnitRows:
        """Those of a chunk (K, D), in place of those of the chunk before."""
        num_padded = layout.padded_classes(len(weight))
        unit = UnitRows(*(tensor[:num_padded] for tensor in self._memory))
        fill_unit_rows(unit, weight, self._precision)
        return unit
