"""Which kernels run in which order: the forward and the backward of the primitive, on the host.

Everything here depends on shapes alone; nothing waits for the device.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.gpu import centres, flash, layout, rows, wide
from fusedface.kernels.gpu.configs import Tile
from fusedface.kernels.gpu.launch import first_that_runs, on_device, start
from fusedface.kernels.gpu.tile import LINEAR, PLAIN, QUADRATIC

ROWS_TILE = 16  # class centres normalised by one program
FACTORS_BLOCK = 1024
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
    with on_device(embeddings.device):
        x = unit_rows(embeddings, numbers.precision)
        w = unit_rows(weight, numbers.precision)
        cos_y = embeddings.new_empty(len(embeddings), dtype=torch.float32)
        dim = embeddings.shape[1]
        start(
            rows.target_cosine_kernel, len(embeddings),
            embeddings, weight, labels, x.inverse, w.inverse, cos_y,
            dim, *embeddings.stride(), *weight.stride(), BLOCK_D=layout.power_of_2(dim),
        )  # fmt: skip
        with_direction = has_direction(dim, numbers.precision, needs_embeddings)
        sums = _Sums(x, w, labels, threshold, linear, numbers, with_direction)
        return Forward(cos_y, *sums.run(), x, w)


def unit_rows(tensor: Tensor, precision: str) -> UnitRows:
    """Normalise the rows of `tensor` (N, D), of any strides."""
    num, dim = tensor.shape
    operands = layout.operands(precision)
    padded = layout.padded_dim(dim, precision)
    unit = tensor.new_empty(num, padded, dtype=operands.dtype)
    inverse = tensor.new_empty(num, dtype=torch.float32)
    start(
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
        return first_that_runs(
            name, shape, self._tensors[0].device, self._numbers.precision, self._run
        )

    def _run(self, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
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
        start(
            flash.combine_kernel, self._rows,
            totals, weighted, linear, lse, stats, direction,
            self._rows, splits.num, *self._numbers.scalars[:2],
            WITH_DIRECTION=self._with_direction, BLOCK_S=layout.power_of_2(splits.num),
            **self._constants,
        )  # fmt: skip
        return lse, stats, direction


class Saved(NamedTuple):
    """What the backward starts from."""

    embeddings: Tensor
    weight: Tensor
    labels: Tensor
    threshold: Tensor
    linear: Tensor
    lse: Tensor
    direction: Tensor
    x: UnitRows
    w: UnitRows


class Factors(NamedTuple):
    """Per row log2(e) lse, a and v (3, B), the latter two over `unscale` (0-d)."""

    rows: Tensor
    unscale: Tensor


def backward(
    saved: Saved,
    d_cos_y: Tensor,
    d_lse: Tensor,
    numbers: Numbers,
    needs_embeddings: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients in the embeddings (B, D) and the class centres (C, D), empty where not needed."""
    embeddings, weight = saved.embeddings, saved.weight
    with on_device(embeddings.device):
        factors = _row_factors(saved, d_cos_y, d_lse, numbers)
        d_embeddings = torch.empty_like(
            embeddings[: len(embeddings) * needs_embeddings], memory_format=torch.contiguous_format
        )
        d_weight = torch.empty_like(
            weight[: len(weight) * needs_weight], memory_format=torch.contiguous_format
        )
        if layout.is_narrow(embeddings.shape[1], numbers.precision):
            if needs_weight:
                _centre_gradient(saved, factors, numbers, d_weight)
            parts = saved.direction[None]
        else:
            parts = _chunked_gradients(saved, factors, numbers, needs_embeddings, d_weight)
        if needs_embeddings:
            _embedding_gradient(saved, factors, numbers, parts, d_embeddings)
        return d_embeddings, d_weight


def _row_factors(saved: Saved, d_cos_y: Tensor, d_lse: Tensor, numbers: Numbers) -> Factors:
    num = len(saved.labels)
    factors = Factors(saved.lse.new_empty(3, num), saved.lse.new_empty(()))
    start(
        rows.row_factors_kernel, 1,
        saved.lse, d_lse, d_cos_y, saved.labels, *factors,
        num, numbers.scale, 2.0 ** layout.operands(numbers.precision).shift, BLOCK_B=FACTORS_BLOCK,
    )  # fmt: skip
    return factors


def _centre_gradient(saved: Saved, factors: Factors, numbers: Numbers, d_weight: Tensor) -> None:
    num_rows, num_classes = len(saved.labels), len(saved.weight)
    dim = saved.x.rows.shape[1]

    def run(tile: Tile) -> None:
        start(
            centres.centre_gradient_kernel, layout.ceil_div(num_classes, tile.block_c),
            saved.x.rows, saved.w.rows, saved.w.rows, saved.w.inverse,
            saved.labels, saved.threshold, *factors, saved.linear, d_weight,
            num_rows, num_classes, d_weight.shape[1], *numbers.scalars,
            tile=tile, DIM=dim, MODE=numbers.mode, PRECISION=layout.operands(numbers.precision).dot,
        )  # fmt: skip

    shape = (num_rows, num_classes, dim)
    first_that_runs("centres", shape, d_weight.device, numbers.precision, run)


def _embedding_gradient(
    saved: Saved, factors: Factors, numbers: Numbers, parts: Tensor, out: Tensor
) -> None:
    num_parts, num_rows, dim = parts.shape
    start(
        rows.embedding_gradient_kernel, num_rows,
        parts, *factors,
        saved.embeddings, saved.weight, saved.w.rows, saved.labels, saved.x.inverse,
        saved.w.inverse, out,
        num_rows, num_parts, out.shape[1], *saved.embeddings.stride(), *saved.weight.stride(),
        DIM=dim, IS_DIRECTION=bool(len(saved.direction)),
        PRECISION=layout.operands(numbers.precision).dot, BLOCK_D=layout.power_of_2(dim),
    )  # fmt: skip


def _chunked_gradients(
    saved: Saved, factors: Factors, numbers: Numbers, needs_embeddings: bool, d_weight: Tensor
) -> Tensor:
    """Fill `d_weight`, if it is not empty; parts (num, B, DIM) of the gradient in the unit embeddings."""
    num_rows, num_classes = len(saved.labels), len(saved.weight)
    dim = saved.x.rows.shape[1]
    chunk = layout.chunk_classes(num_rows, num_classes)
    g = saved.x.rows.new_empty(num_rows * chunk)
    tiles = layout.ceil_div(num_rows, layout.WIDE_MULTIPLE) * layout.ceil_div(
        dim, layout.WIDE_MULTIPLE
    )
    split = layout.split_chunk(tiles, chunk, layout.processors(g.device))
    parts = saved.lse.new_zeros(split.num * needs_embeddings, num_rows, dim)
    for first in range(0, num_classes, chunk):
        fitting = min(chunk, num_classes - first)
        here = _Chunk(
            first, layout.ceil_div(fitting, layout.CHUNK_MULTIPLE) * layout.CHUNK_MULTIPLE
        )
        along = _coefficients(saved, factors, numbers, here, g)
        if needs_embeddings:
            _embedding_product(saved, numbers, here, g, parts, split.classes)
        if len(d_weight):
            _centre_product(saved, factors, numbers, here, g, along, d_weight)
    return parts


class _Chunk(NamedTuple):
    """Classes [first, first + size), of which those past the last have coefficients 0."""

    first: int
    size: int


def _coefficients(
    saved: Saved, factors: Factors, numbers: Numbers, chunk: _Chunk, g: Tensor
) -> Tensor:
    """Write g (B, chunk); return its part of the projection (row blocks, chunk)."""
    num_rows, num_classes, dim = len(saved.labels), len(saved.weight), saved.x.rows.shape[1]

    def run(tile: Tile) -> Tensor:
        blocks = layout.ceil_div(num_rows, tile.block_b)
        along = saved.lse.new_empty(blocks, chunk.size)
        start(
            wide.coefficients_kernel, blocks * (chunk.size // tile.block_c),
            saved.x.rows, saved.w.rows, saved.labels, saved.threshold, factors.rows, saved.linear,
            g, along, num_rows, num_classes, chunk.first, chunk.size, *numbers.scalars,
            tile=tile, DIM=dim, MODE=numbers.mode, PRECISION=layout.operands(numbers.precision).dot,
        )  # fmt: skip
        return along

    shape = (num_rows, num_classes, dim)
    return first_that_runs("coefficients", shape, g.device, numbers.precision, run)


def _embedding_product(
    saved: Saved, numbers: Numbers, chunk: _Chunk, g: Tensor, parts: Tensor, classes: int
) -> None:
    num_parts, num_rows, dim = parts.shape

    def run(tile: Tile) -> None:
        tiles = layout.ceil_div(num_rows, tile.block_b) * (dim // tile.block_d)
        start(
            wide.embedding_product_kernel, tiles * num_parts,
            g, saved.w.rows, parts, num_rows, len(saved.weight), chunk.first, chunk.size, classes,
            tile=tile, DIM=dim, PRECISION=layout.operands(numbers.precision).dot,
        )  # fmt: skip

    shape = (num_rows, len(saved.weight), dim)
    first_that_runs("embedding_product", shape, g.device, numbers.precision, run)


def _centre_product(
    saved: Saved, factors: Factors, numbers: Numbers, chunk: _Chunk, g: Tensor, along: Tensor,
    d_weight: Tensor,
) -> None:  # fmt: skip
    num_rows, dim = saved.x.rows.shape

    def run(tile: Tile) -> None:
        start(
            wide.centre_product_kernel, chunk.size // tile.block_c * (dim // tile.block_d),
            g, along, saved.x.rows, saved.w.rows, saved.w.inverse, factors.unscale, d_weight,
            num_rows, len(saved.weight), chunk.first, chunk.size, len(along), d_weight.shape[1],
            tile=tile, DIM=dim, PRECISION=layout.operands(numbers.precision).dot,
        )  # fmt: skip

    shape = (num_rows, len(saved.weight), dim)
    first_that_runs("centre_product", shape, g.device, numbers.precision, run)
