"""The backward of the primitive on the host: which kernels run, on what.

Everything here depends only on shapes; nothing waits for the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.gpu import (
    choice,
    chunk_gradients,
    launch,
    layout,
    reductions,
    rows,
    slots,
)
from fusedface.kernels.gpu import gradients as kernels
from fusedface.kernels.gpu.arguments import Numbers, UnitRows
from fusedface.kernels.gpu.launch import Start
from fusedface.kernels.gpu.tiles import Tile


class Saved(NamedTuple):
    """The tensors that the backward starts from; `flags` may be some columns of all."""

    embeddings: Tensor
    weight: Tensor
    labels: Tensor
    linear: Tensor
    direction: Tensor
    x: UnitRows
    w: UnitRows
    flags: Tensor


class Factors(NamedTuple):
    """Four numbers a row (4, padded B), divided by `unscale` (0-d): see `reductions.row_factors_kernel`.

    A fifth, not divided, is the gradient in the length (`reductions.write_factors`). All gradients are
    multiplied by `outer` (0-d).
    """

    rows: Tensor
    unscale: Tensor
    outer: Tensor
    signed: bool  # whether a may be below 0


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
        factors = row_factors(saved, threshold, lse, d_cos_y, d_lse, numbers)
        return gradients(saved, factors, numbers, needs_embeddings, needs_weight)


def gradients(
    saved: Saved,
    factors: Factors,
    numbers: Numbers,
    needs_embeddings: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients as in `backward`, from the factors of the rows."""
    embeddings, weight = saved.embeddings, saved.weight
    d_embeddings = torch.empty_like(
        embeddings if needs_embeddings else embeddings[:0], memory_format=torch.contiguous_format
    )
    d_weight = torch.empty_like(
        weight if needs_weight else weight[:0], memory_format=torch.contiguous_format
    )
    if layout.is_narrow(embeddings.shape[1], numbers.precision):
        if needs_weight:
            centre_gradient(saved, factors, numbers, d_weight)
        parts = saved.direction[None]
    else:
        parts = _chunked_gradients(saved, factors, numbers, needs_embeddings, d_weight)
    if needs_embeddings:
        embedding_gradient(saved, factors, numbers, parts, d_embeddings)
    return d_embeddings, d_weight


def row_factors(
    saved: Saved, threshold: Tensor, lse: Tensor, d_cos_y: Tensor, d_lse: Tensor, numbers: Numbers
) -> Factors:
    """The factors of the rows; nothing is read back."""
    num = len(saved.labels)
    padded = layout.padded_rows(num)
    factors = empty_factors(lse, slots.NUM_FACTORS, padded)
    launch.start(
        reductions.row_factors_kernel, 1,
        lse, d_lse, d_cos_y, saved.labels, threshold, factors.rows, factors.unscale, factors.outer,
        num, padded, numbers.scale, 2.0 ** layout.operands(numbers.precision).shift,
        BLOCK_B=layout.ROW_MULTIPLE,
    )  # fmt: skip
    return factors


def empty_factors(like: Tensor, num_factors: int, num_padded: int) -> Factors:
    """Memory for the factors of a backward that may be given a gradient for each row."""
    rows, unscale, outer = (
        like.new_empty(shape, dtype=torch.float32) for shape in ((num_factors, num_padded), (), ())
    )
    return Factors(rows, unscale, outer, signed=True)


def centre_gradient(saved: Saved, factors: Factors, numbers: Numbers, d_weight: Tensor) -> None:
    """Fill `d_weight` (C, D), in the narrow schedule."""
    num_rows, num_classes = len(saved.labels), len(saved.weight)
    dim = saved.x.rows.shape[1]

    def run(tile: Tile, start: Start) -> None:
        start(
            kernels.centre_gradient_kernel, layout.ceil_div(num_classes, tile.block_c),
            saved.x.rows, saved.w.rows, saved.w.rows, saved.w.inverse,
            saved.labels, saved.flags, factors.rows, factors.unscale, factors.outer, saved.linear,
            d_weight,
            num_rows, factors.rows.shape[1], num_classes, saved.flags.stride(0), *numbers.scalars,
            tile=tile, DIM=dim, WIDTH=d_weight.shape[1], MODE=numbers.mode,
            PRECISION=layout.operands(numbers.precision).dot, SIGNED=factors.signed,
        )  # fmt: skip

    shape = (num_rows, num_classes, dim)
    variant = (numbers.mode, d_weight.dtype, d_weight.shape[1], factors.signed)
    choice.first_that_runs("centres", shape, d_weight.device, numbers.precision, run, variant)


def embedding_gradient(
    saved: Saved,
    factors: Factors,
    numbers: Numbers,
    parts: Tensor,
    out: Tensor,
    rounded_v: Tensor | None = None,
) -> None:
    """Fill `out` (B, D) from parts (num, B, DIM).

    Parts from kept exponentials lack their factors and come with `rounded_v` (padded B,) (kept.py).
    """
    num_parts, num_rows, dim = parts.shape
    launch.start(
        rows.embedding_gradient_kernel, num_rows,
        parts, factors.rows, factors.rows if rounded_v is None else rounded_v,
        factors.unscale, factors.outer,
        saved.embeddings, saved.weight, saved.w.rows, saved.labels, saved.x.inverse,
        saved.w.inverse, out,
        num_rows, factors.rows.shape[1], num_parts, out.shape[1],
        *saved.embeddings.stride(), *saved.weight.stride(),
        DIM=dim, IS_DIRECTION=bool(len(saved.direction)), IS_KEPT=rounded_v is not None,
        WITH_LENGTH=len(factors.rows) > slots.NUM_FACTORS,
        PRECISION=layout.operands(numbers.precision).dot, BLOCK_D=layout.power_of_2(dim),
    )  # fmt: skip


def _chunked_gradients(
    saved: Saved, factors: Factors, numbers: Numbers, needs_embeddings: bool, d_weight: Tensor
) -> Tensor:
    """Fill `d_weight`, if it is not empty; parts (num, B, DIM) of the gradient in the unit embeddings."""
    num_rows, num_classes = len(saved.labels), len(saved.weight)
    dim = saved.x.rows.shape[1]
    chunk = layout.chunk_classes(num_rows, num_classes, dim, numbers.precision)
    scratch = scratch_of(saved, factors, chunk, needs_embeddings)
    for first in range(0, num_classes, chunk):
        chunk_gradient(saved, factors, numbers, first, chunk, scratch, d_weight, first > 0)
    return scratch.parts


def scratch_of(saved: Saved, factors: Factors, chunk: int, needs_embeddings: bool) -> "Scratch":
    """Memory that all chunks of up to `chunk` classes use in turn."""
    num_rows, dim = len(saved.labels), saved.x.rows.shape[1]
    tiles = layout.ceil_div(num_rows, layout.WIDE_MULTIPLE) * layout.ceil_div(
        dim, layout.WIDE_MULTIPLE
    )
    split = layout.split_chunk(tiles, chunk, 2 * layout.processors(saved.weight.device))
    return Scratch(
        saved.x.rows.new_empty(len(saved.x.rows) * chunk),
        factors.unscale.new_empty(factors.rows.shape[1] // layout.FLAG_ROWS * chunk),
        factors.unscale.new_empty(split.num if needs_embeddings else 0, num_rows, dim),
        split.classes,
    )


def chunk_gradient(
    saved: Saved, factors: Factors, numbers: Numbers, first: int, chunk: int, scratch: "Scratch",
    d_weight: Tensor, is_later: bool,
) -> None:  # fmt: skip
    """Both gradients of the classes [first, first + chunk); without `is_later` these are the first."""
    fitting = min(chunk, len(saved.weight) - first)
    here = _Chunk(first, layout.ceil_div(fitting, layout.CHUNK_MULTIPLE) * layout.CHUNK_MULTIPLE)
    num_along = _coefficients(saved, factors, numbers, here, scratch)
    _products(saved, factors, numbers, here, scratch, num_along, d_weight, is_later)


class Scratch(NamedTuple):
    """Memory through which a chunk's first launch hands its results to the second."""

    g: Tensor  # (padded B, chunk), in the operand dtype
    along: Tensor  # (row blocks, chunk)
    parts: Tensor  # (num, B, DIM), or (0, B, DIM)
    part_classes: int


class _Chunk(NamedTuple):
    """Classes [first, first + size); those past the last class have coefficients 0."""

    first: int
    size: int


def _coefficients(
    saved: Saved, factors: Factors, numbers: Numbers, chunk: _Chunk, scratch: Scratch
) -> int:
    """Write g and its part of the projection; return the number of row blocks that the latter has."""
    num_rows, num_classes, dim = len(saved.labels), len(saved.weight), saved.x.rows.shape[1]

    def run(tile: Tile, start: Start) -> int:
        blocks = layout.ceil_div(num_rows, tile.block_b)
        start(
            chunk_gradients.coefficients_kernel, blocks * (chunk.size // tile.block_c),
            saved.x.rows, saved.w.rows, saved.labels, saved.flags, factors.rows, saved.linear,
            scratch.g, scratch.along,
            num_rows, factors.rows.shape[1], num_classes, saved.flags.stride(0), chunk.first, chunk.size,
            *numbers.scalars,
            tile=tile, DIM=dim, MODE=numbers.mode, PRECISION=layout.operands(numbers.precision).dot,
            SIGNED=factors.signed,
        )  # fmt: skip
        return blocks

    shape = (num_rows, num_classes, dim)
    variant = (numbers.mode, factors.signed)
    return choice.first_that_runs(
        "coefficients", shape, scratch.g.device, numbers.precision, run, variant
    )


def _products(
    saved: Saved, factors: Factors, numbers: Numbers, chunk: _Chunk, scratch: Scratch,
    num_along: int, d_weight: Tensor, is_later: bool,
) -> None:  # fmt: skip
    num_parts, num_rows, dim = scratch.parts.shape

    def run(tile: Tile, start: Start) -> None:
        columns = dim // tile.block_d
        of_embeddings = layout.ceil_div(num_rows, tile.block_b) * columns * num_parts
        of_centres = chunk.size // tile.block_c * columns * bool(len(d_weight))
        start(
            chunk_gradients.products_kernel, of_embeddings + of_centres,
            scratch.g, scratch.along, saved.x.rows, saved.w.rows, saved.w.inverse, factors.unscale,
            factors.outer, scratch.parts, d_weight,
            num_rows, len(saved.weight), chunk.first, chunk.size, scratch.part_classes,
            of_embeddings, num_along, int(is_later),
            tile=tile, DIM=dim, WIDTH=saved.weight.shape[1],
            PRECISION=layout.operands(numbers.precision).dot,
        )  # fmt: skip

    shape = (num_rows, len(saved.weight), dim)
    variant = (d_weight.dtype, saved.weight.shape[1])
    choice.first_that_runs("products", shape, d_weight.device, numbers.precision, run, variant)
