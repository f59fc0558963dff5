"""The backward of the primitive on the host: which kernels run, on what.

Everything here depends on shapes alone; nothing waits for the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.gpu import choice, launch, layout, reductions, rows
from fusedface.kernels.gpu import gradients as kernels
from fusedface.kernels.gpu.arguments import Numbers, UnitRows
from fusedface.kernels.gpu.launch import Start
from fusedface.kernels.gpu.tiles import Tile


class Saved(NamedTuple):
    """What the backward starts from."""

    embeddings: Tensor
    weight: Tensor
    labels: Tensor
    linear: Tensor
    direction: Tensor
    x: UnitRows
    w: UnitRows
    flags: Tensor


class Factors(NamedTuple):
    """Numbers of the rows (4, padded B), over `unscale` (0-d): see `reductions.row_factors_kernel`."""

    rows: Tensor
    unscale: Tensor


def backward(
    saved: Saved,
    threshold: Tensor,
    lse: Tensor,
    d_cos_y: Tensor,
    d_lse: Tensor,
    numbers: Numbers,
    needs_embeddings: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients in the embeddings (B, D) and the class centres (C, D), empty where not needed."""
    with launch.on_device(saved.embeddings.device):
        factors = _row_factors(saved, threshold, lse, d_cos_y, d_lse, numbers)
        return gradients(saved, factors, numbers, needs_embeddings, needs_weight)


def gradients(
    saved: Saved,
    factors: Factors,
    numbers: Numbers,
    needs_embeddings: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """`backward` from the factors of its rows."""
    embeddings, weight = saved.embeddings, saved.weight
    d_embeddings = torch.empty_like(
        embeddings if needs_embeddings else embeddings[:0], memory_format=torch.contiguous_format
    )
    d_weight = torch.empty_like(
        weight if needs_weight else weight[:0], memory_format=torch.contiguous_format
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


def _row_factors(
    saved: Saved, threshold: Tensor, lse: Tensor, d_cos_y: Tensor, d_lse: Tensor, numbers: Numbers
) -> Factors:
    num = len(saved.labels)
    padded = layout.padded_rows(num)
    factors = Factors(lse.new_empty(4, padded), lse.new_empty(()))
    launch.start(
        reductions.row_factors_kernel, 1,
        lse, d_lse, d_cos_y, saved.labels, threshold, *factors,
        num, padded, numbers.scale, 2.0 ** layout.operands(numbers.precision).shift,
        BLOCK_B=layout.ROW_MULTIPLE,
    )  # fmt: skip
    return factors


def _centre_gradient(saved: Saved, factors: Factors, numbers: Numbers, d_weight: Tensor) -> None:
    num_rows, num_classes = len(saved.labels), len(saved.weight)
    dim = saved.x.rows.shape[1]

    def run(tile: Tile, start: Start) -> None:
        start(
            kernels.centre_gradient_kernel, layout.ceil_div(num_classes, tile.block_c),
            saved.x.rows, saved.w.rows, saved.w.rows, saved.w.inverse,
            saved.labels, saved.flags, *factors, saved.linear, d_weight,
            num_rows, factors.rows.shape[1], num_classes, saved.flags.shape[1], *numbers.scalars,
            tile=tile, DIM=dim, WIDTH=d_weight.shape[1], MODE=numbers.mode,
            PRECISION=layout.operands(numbers.precision).dot, SIGNED=True,
        )  # fmt: skip

    shape = (num_rows, num_classes, dim)
    variant = (numbers.mode, d_weight.dtype, d_weight.shape[1])
    choice.first_that_runs("centres", shape, d_weight.device, numbers.precision, run, variant)


def _embedding_gradient(
    saved: Saved, factors: Factors, numbers: Numbers, parts: Tensor, out: Tensor
) -> None:
    num_parts, num_rows, dim = parts.shape
    launch.start(
        rows.embedding_gradient_kernel, num_rows,
        parts, *factors,
        saved.embeddings, saved.weight, saved.w.rows, saved.labels, saved.x.inverse,
        saved.w.inverse, out,
        num_rows, factors.rows.shape[1], num_parts, out.shape[1],
        *saved.embeddings.stride(), *saved.weight.stride(),
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
    g = saved.x.rows.new_empty(len(saved.x.rows) * chunk)
    tiles = layout.ceil_div(num_rows, layout.WIDE_MULTIPLE) * layout.ceil_div(
        dim, layout.WIDE_MULTIPLE
    )
    split = layout.split_chunk(tiles, chunk, 2 * layout.processors(g.device))
    parts = factors.unscale.new_zeros(split.num if needs_embeddings else 0, num_rows, dim)
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

    def run(tile: Tile, start: Start) -> Tensor:
        blocks = layout.ceil_div(num_rows, tile.block_b)
        along = factors.unscale.new_empty(blocks, chunk.size)
        start(
            kernels.coefficients_kernel, blocks * (chunk.size // tile.block_c),
            saved.x.rows, saved.w.rows, saved.labels, saved.flags, factors.rows, saved.linear,
            g, along, num_rows, factors.rows.shape[1], saved.flags.shape[1], chunk.first, chunk.size,
            *numbers.scalars,
            tile=tile, DIM=dim, MODE=numbers.mode, PRECISION=layout.operands(numbers.precision).dot,
            SIGNED=True,
        )  # fmt: skip
        return along

    shape = (num_rows, num_classes, dim)
    return choice.first_that_runs(
        "coefficients", shape, g.device, numbers.precision, run, numbers.mode
    )


def _embedding_product(
    saved: Saved, numbers: Numbers, chunk: _Chunk, g: Tensor, parts: Tensor, classes: int
) -> None:
    num_parts, num_rows, dim = parts.shape

    def run(tile: Tile, start: Start) -> None:
        tiles = layout.ceil_div(num_rows, tile.block_b) * (dim // tile.block_d)
        start(
            kernels.embedding_product_kernel, tiles * num_parts,
            g, saved.w.rows, parts, num_rows, chunk.first, chunk.size, classes,
            tile=tile, DIM=dim, PRECISION=layout.operands(numbers.precision).dot,
        )  # fmt: skip

    shape = (num_rows, len(saved.weight), dim)
    choice.first_that_runs("embedding_product", shape, g.device, numbers.precision, run)


def _centre_product(
    saved: Saved, factors: Factors, numbers: Numbers, chunk: _Chunk, g: Tensor, along: Tensor,
    d_weight: Tensor,
) -> None:  # fmt: skip
    num_rows, dim = len(saved.labels), saved.x.rows.shape[1]

    def run(tile: Tile, start: Start) -> None:
        start(
            kernels.centre_product_kernel, chunk.size // tile.block_c * (dim // tile.block_d),
            g, along, saved.x.rows, saved.w.rows, saved.w.inverse, factors.unscale, d_weight,
            num_rows, len(saved.weight), chunk.first, chunk.size, len(along),
            tile=tile, DIM=dim, WIDTH=d_weight.shape[1], PRECISION=layout.operands(numbers.precision).dot,
        )  # fmt: skip

    shape = (num_rows, len(saved.weight), dim)
    variant = (d_weight.dtype, d_weight.shape[1])
    choice.first_that_runs("centre_product", shape, g.device, numbers.precision, run, variant)
