"""The two passes over all class centres with compiled loops between the products.

The forward keeps its numerators for the backward, of the first classes, up to a fixed size. For these
classes the backward needs neither the cosines nor the exponentials again: one product of four is saved.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fusedface.kernels.chunks.library import Excess, Library, Negatives
from fusedface.kernels.chunks.operands import Operands, Totals
from fusedface.kernels.interface.normalisation import min_norm
from fusedface.kernels.products import Products

KEPT_BYTES = 2**24  # of numerators, at most


def sum_up(library: Library, of: Operands, with_direction: bool, keep: bool) -> Totals:
    """The forward, with an online log-sum-exp; `keep`: for the backward."""
    sums = of.x.new_zeros(7, len(of.x))
    largest, total, rescale, max_y, num_hard, least, lift_sum = totals = sums.unbind()
    for smallest in (largest, max_y):
        smallest.fill_(-torch.inf)
    least.fill_(torch.inf)
    # Not zeros_like: x has the order in memory that the embeddings came in.
    direction = of.x.new_zeros(of.x.shape) if with_direction else None
    x, negatives = of.x_base2.to(of.products.dtype), _negatives(of)
    sizes = len(x), len(of.weight), of.chunk_size, x.element_size()
    kept_chunks = num_kept(*sizes) if keep else 0
    references, numerators = of.x.new_empty(kept_chunks, len(x)), []
    inverses = of.x.new_empty(kept_chunks, of.chunk_size)
    for nth, (first, _, w, inverse) in enumerate(_chunks(library, of, 0)):
        y = of.products.as_they_come(x, w.T)
        library.take_in(y, first, negatives, totals)
        if nth < kept_chunks:
            references[nth] = largest
            inverses[nth, : len(w)] = inverse
            numerators.append(y)
        if direction is not None:
            library.add_part(direction, rescale, of.products.as_they_come(y, w))
    kept = (references, inverses, *numerators)
    return Totals(largest, total, max_y, num_hard, least, lift_sum, direction, kept)


def gradients(
    library: Library,
    of: Operands,
    lse: Tensor,
    x_negatives: Tensor,
    x_target: Tensor,
    into: Tensor | None,
    kept: tuple[Tensor, ...],
) -> Iterator[tuple[int, Tensor]]:
    """See `plain.gradients`; without `into` the next chunk overwrites the last."""
    x_target, negatives = x_target.contiguous(), _negatives(of)
    direct = into if into is not None and _is_written_to(into) else None
    if direct is not None:
        library.advise_large_pages(direct)
    buffer = of.x.new_empty(of.chunk_size, of.x.shape[1]) if direct is None else direct
    for first, centres, inverse, d_w in _unit_gradients(library, of, lse, x_negatives, kept):
        here = slice(first, first + len(centres))
        out = buffer[here] if direct is not None else buffer[: len(centres)]
        library.project(d_w, first, negatives, x_target, centres, inverse, out)
        if into is not None and direct is None:
            out = into[here].copy_(out)
        yield first, out


def _unit_gradients(
    library: Library, of: Operands, lse: Tensor, x_negatives: Tensor, kept: tuple[Tensor, ...]
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield the first class, class centres (K, D), inverse lengths (K,), and the gradient in the unit rows.

    The last is (K, D), without the targets', and where numerators were kept turned in memory.
    """
    references, inverses, *numerators = kept
    for nth, y in enumerate(numerators):
        first = nth * of.chunk_size
        share = (references[nth] - lse).exp2_()[:, None]
        d_w = _turned_product(of.products, y, (x_negatives * share).to(of.products.dtype))
        yield first, _centres(of, first), inverses[nth], d_w

    x, x_negatives = (rows.to(of.products.dtype) for rows in (of.x_base2, x_negatives))
    lse, negatives = lse.contiguous(), _negatives(of)
    for first, centres, w, inverse in _chunks(library, of, len(numerators)):
        y = of.products.as_they_come(w, x.T)
        library.coefficients(y, first, negatives, lse)
        yield first, centres, inverse, of.products.as_they_come(y, x_negatives)


def _turned_product(products: Products, y: Tensor, x: Tensor) -> Tensor:
    """y^T x (K, D) of y (B, K) and x (B, D); its transpose is contiguous where that is faster."""
    if y.dtype == torch.float32 and x.shape[1] <= len(x):
        return products.as_they_come(x.T.contiguous(), y).T
    return products.as_they_come(y.T, x)


def num_kept(rows: int, classes: int, chunk_size: int, itemsize: int) -> int:
    """The number of chunks whose numerators, of so many bytes each, are kept."""
    fitting = KEPT_BYTES // (itemsize * rows)  # classes
    return min(fitting, classes + chunk_size - 1) // chunk_size


def _is_written_to(into: Tensor) -> bool:
    """Whether the loops can write to `into` directly."""
    return into.dtype == torch.float32 and into.is_contiguous()


def _negatives(of: Operands) -> Negatives:
    return Negatives(of.labels.contiguous(), of.threshold.contiguous(), Excess(*of.excess))


def _chunks(
    library: Library, of: Operands, skip: int
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield the first class, class centres (K, D), their unit rows as operands, and inverse lengths (K,).

    All chunks but the first `skip`; the next one overwrites the last two.
    """
    shortest = min_norm(of.weight.dtype)
    unit = of.x.new_empty(of.chunk_size, of.x.shape[1], dtype=of.products.dtype)
    lengths = of.x.new_empty(of.chunk_size)
    for first in range(skip * of.chunk_size, len(of.weight), of.chunk_size):
        centres = _centres(of, first)
        w, inverse = unit[: len(centres)], lengths[: len(centres)]
        library.unit_rows(centres, shortest, inverse, w)
        yield first, centres, w, inverse


def _centres(of: Operands, first: int) -> Tensor:
    return of.weight[first : first + of.chunk_size].float().contiguous()
