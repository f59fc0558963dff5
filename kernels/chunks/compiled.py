"""The two passes over all class centres with compiled loops between the products.

The forward keeps numerators for the backward (kept.py). For their classes the backward needs neither the
cosines nor the exponentials again: one product of four is saved.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fusedface.kernels.chunks.gradient_memory import gradient_like
from fusedface.kernels.chunks.kept import Kept, KeptChunk
from fusedface.kernels.chunks.library import Excess, Library, Negatives, Sums
from fusedface.kernels.chunks.operands import Operands
from fusedface.kernels.interface.normalisation import min_norm


def sum_up(
    library: Library, of: Operands, with_direction: bool, keep: bool, in_gradient: bool
) -> tuple[Sums, Kept]:
    """The forward, with an online log-sum-exp.

    `keep`: numerators, for the backward; `in_gradient`: in the memory of a gradient like `of.weight`, too.
    """
    sums = library.begin(of.x, with_direction)
    x, negatives = of.x_base2.to(of.products.dtype), _negatives(of)
    gradient = gradient_like(library, of.weight) if keep and in_gradient else None
    kept = Kept(of, keep, gradient)
    unit = x.new_empty(of.chunk_size, of.x.shape[1])
    for nth, centres in _chunks(of, _all_chunks(of)):
        place, w = kept.place(nth, len(centres)), unit[: len(centres)]
        library.unit_rows(centres, min_norm(of.weight.dtype), place.inverse, w)
        y = of.products.as_they_come(x, w.T)
        numerators = y if place.numerators is None else place.numerators
        library.take_in(y, nth * of.chunk_size, negatives, sums, numerators, place.reference)
        kept.take_in(nth, place, numerators)
        if with_direction:
            library.add_part(sums, of.products.as_they_come(numerators, w))
    return sums, kept


def gradients(
    library: Library,
    of: Operands,
    lse: Tensor,
    x_negatives: Tensor,
    x_target: Tensor,
    into: Tensor | None,
    kept: Sequence[KeptChunk],
) -> Iterator[tuple[int, Tensor]]:
    """See `plain.gradients`, but in another order; without `into` the next chunk overwrites the last.

    `kept` and the memory of `into` are those of `Kept.take`.
    """
    x_target, negatives = x_target.contiguous(), _negatives(of)
    direct = into if into is not None and is_written_to(into) else None
    buffer = of.x.new_empty(of.chunk_size, of.x.shape[1]) if direct is None else direct
    for first, centres, inverse, d_w in _unit_gradients(library, of, lse, x_negatives, kept):
        here = slice(first, first + len(centres))
        out = buffer[here] if direct is not None else buffer[: len(centres)]
        library.project(d_w, first, negatives, x_target, centres, inverse, out)
        if into is not None and direct is None:
            out = into[here].copy_(out)
        yield first, out


def _unit_gradients(
    library: Library, of: Operands, lse: Tensor, x_negatives: Tensor, kept: Sequence[KeptChunk]
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield the first class, class centres (K, D), inverse lengths (K,), and the gradient in the unit rows.

    The last is (K, D), without the targets'.
    """
    lse, x_negatives = lse.contiguous(), x_negatives.contiguous()
    yield from _of_kept(library, of, lse, x_negatives, kept)
    known = {chunk.nth for chunk in kept}
    others = [nth for nth in _all_chunks(of) if nth not in known]
    x, x_negatives = (rows.to(of.products.dtype) for rows in (of.x_base2, x_negatives))
    negatives, lengths = _negatives(of), of.x.new_empty(of.chunk_size)
    unit = x.new_empty(of.chunk_size, of.x.shape[1])
    for nth, centres in _chunks(of, others):
        first, inverse, w = nth * of.chunk_size, lengths[: len(centres)], unit[: len(centres)]
        library.unit_rows(centres, min_norm(of.weight.dtype), inverse, w)
        y = of.products.as_they_come(w, x.T)
        library.coefficients(y, first, negatives, lse)
        yield first, centres, inverse, of.products.as_they_come(y, x_negatives)


def _of_kept(
    library: Library, of: Operands, lse: Tensor, x_negatives: Tensor, kept: Sequence[KeptChunk]
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """`_unit_gradients` of the chunks whose numerators were kept."""
    is_plain, num_rows = of.products.dtype == torch.float32, len(x_negatives)
    # bfloat16 products take a turned operand as it is, float32's would copy it first.
    turned = of.x.new_empty(of.chunk_size if is_plain else 0, num_rows)
    scaled = None if is_plain else x_negatives.new_empty(of.x.shape, dtype=of.products.dtype)
    for nth, y, reference, inverse in kept:
        if scaled is None:
            q = turned[: y.shape[1]]
            library.turn_rows(y, reference, lse, q)
            d_w = of.products.as_they_come(q, x_negatives)
        else:
            library.scale_rows(x_negatives, reference, lse, scaled)
            d_w = of.products.as_they_come(y.T, scaled)
        yield nth * of.chunk_size, _centres(of, nth), inverse, d_w


def is_written_to(into: Tensor) -> bool:
    """Whether the loops can write to `into` directly."""
    return into.dtype == torch.float32 and into.is_contiguous()


def _negatives(of: Operands) -> Negatives:
    return Negatives(of.labels.contiguous(), of.threshold.contiguous(), Excess(*of.excess))


def _all_chunks(of: Operands) -> range:
    return range(-(-len(of.weight) // of.chunk_size))


def _chunks(of: Operands, which: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """Yield a chunk's number and class centres (K, D)."""
    for nth in which:
        yield nth, _centres(of, nth)


def _centres(of: Operands, nth: int) -> Tensor:
    first = nth * of.chunk_size
    rows = of.weight[first : first + of.chunk_size]
    return rows if is_written_to(rows) else rows.float().contiguous()
