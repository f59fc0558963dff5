"""The backward on the host from exponentials that the forward kept: two products, none for cosines."""

import torch
from torch import Tensor

from fusedface.kernels.gpu import backward, choice, kept, launch, layout
from fusedface.kernels.gpu.arguments import Numbers
from fusedface.kernels.gpu.backward import Factors, Saved
from fusedface.kernels.gpu.launch import Start
from fusedface.kernels.gpu.tiles import Tile

ROWS = 4  # that a program of `scaled_rows_kernel` takes


def gradients(
    saved: Saved,
    exponentials: Tensor,
    factors: Factors,
    numbers: Numbers,
    needs_embeddings: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """As `backward.gradients`; `exponentials` (padded B, padded C) are those of kept.py."""
    embeddings, weight = saved.embeddings, saved.weight
    d_embeddings, d_weight = (
        torch.empty_like(tensor if needed else tensor[:0], memory_format=torch.contiguous_format)
        for tensor, needed in ((embeddings, needs_embeddings), (weight, needs_weight))
    )
    scaled = torch.empty_like(saved.x.rows)
    num_padded, dim = scaled.shape
    rounded_v = factors.rows.new_empty(num_padded)
    launch.start(
        kept.scaled_rows_kernel, num_padded // ROWS,
        embeddings, saved.x.inverse, saved.labels, exponentials, factors.rows, scaled, rounded_v,
        len(embeddings), num_padded, embeddings.shape[1], exponentials.shape[1], *embeddings.stride(),
        DIM=dim, BLOCK_D=layout.power_of_2(dim), BLOCK_N=ROWS,
    )  # fmt: skip
    parts = _products(saved, exponentials, scaled, factors, numbers, needs_embeddings, d_weight)
    if needs_embeddings:
        backward.embedding_gradient(saved, factors, numbers, parts, d_embeddings, rounded_v)
    return d_embeddings, d_weight


def _products(
    saved: Saved, exponentials: Tensor, scaled: Tensor, factors: Factors, numbers: Numbers,
    needs_embeddings: bool, d_weight: Tensor,
) -> Tensor:  # fmt: skip
    """Fill `d_weight`, if it is not empty; parts (num, B, DIM) of the gradient in the unit embeddings."""
    num_rows, num_classes, dim = len(saved.labels), len(saved.weight), scaled.shape[1]
    pitch = exponentials.shape[1]
    tiles = layout.ceil_div(num_rows, layout.WIDE_MULTIPLE) * layout.ceil_div(
        dim, layout.WIDE_MULTIPLE
    )
    split = layout.split_chunk(tiles, pitch, 2 * layout.processors(d_weight.device))
    parts = factors.unscale.new_empty(split.num if needs_embeddings else 0, num_rows, dim)

    def run(tile: Tile, start: Start) -> None:
        blocks = layout.ceil_div(num_rows, tile.block_b) * (dim // tile.block_d)
        of_embeddings = blocks * len(parts)
        of_centres = pitch // tile.block_c * bool(len(d_weight))
        start(
            kept.kept_products_kernel, of_embeddings + of_centres,
            exponentials, scaled, saved.w.rows, saved.w.rows, saved.w.inverse, factors.unscale,
            factors.outer, parts, d_weight,
            num_rows, num_classes, pitch, split.classes, of_embeddings,
            tile=tile, DIM=dim, WIDTH=saved.weight.shape[1],
            PRECISION=layout.operands(numbers.precision).dot, ROW=layout.power_of_2(dim),
        )  # fmt: skip

    shape = (num_rows, num_classes, dim)
    variant = (d_weight.dtype, saved.weight.shape[1])
    choice.first_that_runs("kept", shape, d_weight.device, numbers.precision, run, variant)
    return parts
