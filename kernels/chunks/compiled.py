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
    unit, part, cosines = (
        x.new_empty(shape) for shape in (of.chunk_shape, x.shape, of.num_cosines)
    )
    for nth, centres in _chunks(of, _all_chunks(of)):
        place, w = kept.place(nth, len(centres)), unit[: len(centres)]
        library.unit_rows(centres, min_norm(of.weight.dtype), place.inverse, w)
        space = None if place.keeps_cosines else cosines[: len(x) * len(w)].view(len(x), -1)
        y = of.products.as_they_come(x, w.T, space)
        numerators = y if place.numerators is None else place.numerators
        library.take_in(y, nth * of.chunk_size, negatives, sums, numerators, place.reference)
        kept.take_in(nth, place, numerators)
        if with_direction:
            library.add_part(sums, of.products.as_they_come(numerators, w, part))
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
    d_w = of.x.new_empty(of.chunk_shape, dtype=of.products.dtype)
    yield from _of_kept(library, of, lse, x_negatives, kept, d_w)
    known = {chunk.nth for chunk in kept}
    others = [nth for nth in _all_chunks(of) if nth not in known]
    if not others:
        return
    x, x_negatives = (rows.to(of.products.dtype) for rows in (of.x_base2, x_negatives))
    negatives, lengths = _negatives(of), of.x.new_empty(of.chunk_size)
    unit, cosines = (x.new_empty(shape) for shape in (of.chunk_shape, of.num_cosines))
    for nth, centres in _chunks(of, others):
        first, inverse, w = nth * of.chunk_size, lengths[: len(centres)], unit[: len(centres)]
        library.unit_rows(centres, min_norm(of.weight.dtype), inverse, w)
        y = of.products.as_they_come(w, x.T, cosines[: len(w) * len(x)].view(len(w), -1))
        library.coefficients(y, first, negatives, lse)
        yield first, centres, inverse, of.products.as_they_come(y, x_negatives, d_w[: len(w)])


def _of_kept(
    library: Library,
    of: Operands,
    lse: Tensor,
    x_negatives: Tensor,
    kept: Sequence[KeptChunk],
    d_w: Tensor,
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """`_unit_gradients` of the chunks whose numerators were kept; `d_w` is space for those of one."""
    takes_turned = of.products.takes_turned
    turned = of.x.new_empty(0 if takes_turned else of.chunk_size, len(x_negatives))
    scaled = x_negatives.new_empty(of.x.shape, dtype=of.products.dtype)
    for nth, y, reference, inverse in kept:
        if takes_turned:
            library.scale_rows(x_negatives, reference, lse, scaled)
            left, right = y.T, scaled
        else:
            left, right = turned[: y.shape[1]], x_negatives
            library.turn_rows(y, reference, lse, left)
        d_unit = of.products.as_they_come(left, right, d_w[: y.shape[1]])
        yield nth * of.chunk_size, _centres(of, nth), inverse, d_unit


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
