"""The two passes over all class centres with compiled loops between the products."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fusedface.kernels.chunks.library import Excess, Library, Negatives
from fusedface.kernels.chunks.operands import Operands, Totals
from fusedface.kernels.interface.normalisation import min_norm


def sum_up(library: Library, of: Operands, with_direction: bool) -> Totals:
    """The forward, with an online log-sum-exp."""
    sums = of.x.new_zeros(7, len(of.x))
    largest, total, rescale, max_y, num_hard, least, lift_sum = totals = sums.unbind()
    for smallest in (largest, max_y):
        smallest.fill_(-torch.inf)
    least.fill_(torch.inf)
    # Not zeros_like: x has the order in memory that the embeddings came in.
    direction = of.x.new_zeros(of.x.shape) if with_direction else None
    x, negatives = of.x_base2.to(of.products.dtype), _negatives(of)
    for first, _, w, _ in _chunks(library, of):
        y = of.products.as_they_come(x, w.T)
        library.take_in(y, first, negatives, totals)
        if direction is not None:
            library.add_part(direction, rescale, of.products.as_they_come(y, w))
    return Totals(largest, total, max_y, num_hard, least, lift_sum, direction)


def gradients(
    library: Library,
    of: Operands,
    lse: Tensor,
    x_negatives: Tensor,
    x_target: Tensor,
    into: Tensor | None,
) -> Iterator[tuple[int, Tensor]]:
    """See `plain.gradients`; without `into` the next chunk overwrites the last."""
    x, x_negatives = (rows.to(of.products.dtype) for rows in (of.x_base2, x_negatives))
    lse, x_target, negatives = lse.contiguous(), x_target.contiguous(), _negatives(of)
    direct = into if into is not None and _is_written_to(into) else None
    if direct is not None:
        library.advise_large_pages(direct)
        buffer = direct
    else:
        buffer = of.x.new_empty(of.chunk_size, of.x.shape[1])
    for first, centres, w, inverse in _chunks(library, of):
        y = of.products.as_they_come(w, x.T)
        library.coefficients(y, first, negatives, lse)
        d_w = of.products.as_they_come(y, x_negatives)
        here = slice(first, first + len(w))
        out = buffer[here] if direct is not None else buffer[: len(w)]
        library.project(d_w, first, negatives, x_target, centres, inverse, out)
        if into is not None and direct is None:
            out = into[here].copy_(out)
        yield first, out


def _is_written_to(into: Tensor) -> bool:
    """Whether the loops can write to `into` directly."""
    return into.dtype == torch.float32 and into.is_contiguous()


def _negatives(of: Operands) -> Negatives:
    return Negatives(of.labels.contiguous(), of.threshold.contiguous(), Excess(*of.excess))


def _chunks(library: Library, of: Operands) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield the first class, class centres (K, D), their unit rows as operands, and inverse lengths (K,).

    The next chunk overwrites the last two.
    """
    shortest = min_norm(of.weight.dtype)
    unit = of.x.new_empty(of.chunk_size, of.x.shape[1], dtype=of.products.dtype)
    lengths = of.x.new_empty(of.chunk_size)
    for first in range(0, len(of.weight), of.chunk_size):
        centres = of.weight[first : first + of.chunk_size].float().contiguous()
        w, inverse = unit[: len(centres)], lengths[: len(centres)]
        library.unit_rows(centres, shortest, inverse, w)
        yield first, centres, w, inverse
