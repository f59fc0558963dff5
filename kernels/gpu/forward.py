"""The forward of the primitive on the host: which kernels run, on what.

Everything here depends on shapes alone; nothing waits for the device.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.gpu import flash, launch, layout, rows, wide
from fusedface.kernels.gpu.configs import Tile
from fusedface.kernels.gpu.launch import Start
from fusedface.kernels.gpu.tile import LINEAR, PLAIN, QUADRATIC

ROWS_TILE = 16  # class centres normalised by one program
LOG2_E = rows.LOG2_E.value


class Numbers(NamedTuple):
    """The scalars of a `Spec`; `linear` is a tensor apart from them."""

    scale: float
    square: float
    constant: float
    precision: str
    reweights: bool

    @property
    def mode(self) -> int:
        """Which branch of N the kernels hold."""
        if not self.reweights:
            return PLAIN.value
        return QUADRATIC.value if self.square else LINEAR.value

    @property
    def scalars(self) -> tuple[float, float, float]:
        """As the kernels take them."""
        return self.scale * LOG2_E, self.square, self.constant


class UnitRows(NamedTuple):
    """Unit rows (N, DIM) in the operand dtype, padded with zeros, and inverse lengths (N,)."""

    rows: Tensor
    inverse: Tensor


class Forward(NamedTuple):
    """What the forward leaves for its caller and for the backward; float32 but for the unit rows."""

    cos_y: Tensor  # (B,)
    lse: Tensor  # (B,)
    stats: Tensor  # (5, B), as in NegativeStats
    direction: Tensor  # (B, DIM), or (0, DIM)
    x: UnitRows
    w: UnitRows


def has_direction(dim: int, precision: str, needs_embeddings: bool) -> bool:
    """Whether the forward computes the gradient's direction in its own pass."""
    return needs_embeddings and layout.is_narrow(dim, precision)


def forward(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    threshold: Tensor,
    linear: Tensor,
    numbers: Numbers,
    needs_embeddings: bool,
) -> Forward:
    """Cosines, log-sum-exp and statistics; shapes as in `Primitive`."""
    with launch.on_device(embeddings.device):
        x = unit_rows(embeddings, numbers.precision)
        w = unit_rows(weight, numbers.precision)
        cos_y, _ = target_cosine(embeddings, weight, labels)
        with_direction = has_direction(embeddings.shape[1], numbers.precision, needs_embeddings)
        sums = _Sums(x, w, labels, threshold, linear, numbers, with_direction)
        return Forward(cos_y, *sums.run(), x, w)


def target_cosine(embeddings: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """See `primitive.target_cosine`; float32."""
    num_rows, dim = embeddings.shape
    cos_y, norms = (embeddings.new_empty(num_rows, dtype=torch.float32) for _ in range(2))
    with launch.on_device(embeddings.device):
        launch.start(
            rows.target_cosine_kernel, num_rows,
            embeddings, weight, labels, cos_y, norms,
            dim, *embeddings.stride(), *weight.stride(), BLOCK_D=layout.power_of_2(dim),
        )  # fmt: skip
    return cos_y, norms


def unit_rows(tensor: Tensor, precision: str) -> UnitRows:
    """Normalise the rows of `tensor` (N, D), of any strides."""
    num, dim = tensor.shape
    operands = layout.operands(precision)
    padded = layout.padded_dim(dim, precision)
    unit = tensor.new_empty(num, padded, dtype=operands.dtype)
    inverse = tensor.new_empty(num, dtype=torch.float32)
    launch.start(
        rows.unit_rows_kernel, layout.ceil_div(num, ROWS_TILE),
        tensor, unit, inverse, num, dim, *tensor.stride(),
        DIM=padded, PRECISION=operands.dot,
        BLOCK_D=layout.power_of_2(padded), BLOCK_N=ROWS_TILE,
    )  # fmt: skip
    return UnitRows(unit, inverse)


class _Sums:
    """The sums over the classes: kernel over (row blocks, splits), then over the splits."""

    def __init__(
        self,
        x: UnitRows,
        w: UnitRows,
        labels: Tensor,
        threshold: Tensor,
        linear: Tensor,
        numbers: Numbers,
        with_direction: bool,
    ) -> None:
        self._operands = layout.operands(numbers.precision)
        self._tensors = (x.rows, w.rows, labels, threshold, linear)
        self._numbers, self._with_direction = numbers, with_direction
        self._rows, self._classes = len(x.rows), len(w.rows)
        self._constants: dict[str, Any] = {
            "DIM": x.rows.shape[1],
            "MODE": numbers.mode,
            "SHIFT": self._operands.shift,
        }

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        """lse (B,), statistics (5, B) and direction (B, DIM) or (0, DIM)."""
        name = "flash" if self._with_direction else "lse"
        shape = (self._rows, self._classes, self._constants["DIM"])
        return launch.first_that_runs(
            name, shape, self._tensors[0].device, self._numbers.precision, self._run,
            self._numbers.mode,
        )  # fmt: skip

    def _run(self, tile: Tile, start: Start) -> tuple[Tensor, Tensor, Tensor]:
        x, labels, linear = self._tensors[0], self._tensors[2], self._tensors[4]
        splits = layout.split_classes(
            self._rows, self._classes, tile.block_b, tile.block_c, layout.processors(x.device)
        )
        dim = self._constants["DIM"]
        totals = x.new_empty(6, splits.num, self._rows, dtype=torch.float32)
        weighted = x.new_empty(
            splits.num * self._with_direction, self._rows, dim, dtype=torch.float32
        )
        sums = (totals, weighted) if self._with_direction else (totals,)
        start(
            flash.flash_kernel if self._with_direction else wide.lse_kernel,
            splits.blocks * splits.num,
            *self._tensors, *sums,
            self._rows, self._classes, splits.num, splits.tiles, *self._numbers.scalars,
            tile=tile, PRECISION=self._operands.dot, **self._constants,
        )  # fmt: skip
        lse = labels.new_empty(self._rows, dtype=torch.float32)
        stats = lse.new_empty(5, self._rows)
        direction = lse.new_empty(self._rows * self._with_direction, dim)
        launch.start(
            flash.combine_kernel, self._rows,
            totals, weighted, linear, lse, stats, direction,
            self._rows, splits.num, *self._numbers.scalars[:2],
            WITH_DIRECTION=self._with_direction, BLOCK_S=layout.power_of_2(splits.num),
            **self._constants,
        )  # fmt: skip
        return lse, stats, direction
