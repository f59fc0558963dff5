"""Numerators that a forward keeps for its backward, most of them in the memory of a gradient.

The gradient of the class centres (C, D) is allocated in the forward already, and holds numerators of the
last chunks until the backward writes it. The backward takes these chunks from the last to the first, so
that it never writes over numerators that it has still to read. With e and g bytes a chunk of numerators
and of the gradient, numerators of chunk k lie at (k - first) e, its gradient at k g, and

    (k - first) e <= k g        as all e fit into all g, or as e <= g and first = 0

Of the other chunks, the first ones are kept in memory of their own, up to a constant size.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from fusedface.kernels.chunks.operands import Operands

KEPT_BYTES = 2**24  # of numerators in memory of their own, at most
FLOAT32 = 4  # bytes of a number of the gradient


class Layout(NamedTuple):
    """How many chunks are kept: the first `apart` in memory of their own, the last `inside` a gradient."""

    chunks: int  # all there are
    apart: int
    inside: int


class KeptChunk(NamedTuple):
    """The nth chunk: numerators (B, K), the base-2 logits (B,) they refer to, inverse lengths (K,)."""

    nth: int
    numerators: Tensor
    reference: Tensor
    inverse: Tensor


class Place(NamedTuple):
    """Where a forward writes what is kept of a chunk."""

    numerators: Tensor | None  # (B, K); None: over its cosines
    reference: Tensor | None  # (B,); None: they are not kept
    inverse: Tensor  # (K,)

    @property
    def keeps_cosines(self) -> bool:
        """Whether the memory of the chunk's cosines is kept, for the numerators in it."""
        return self.numerators is None and self.reference is not None


class Kept:
    """What one forward keeps.

    Args:
        of: the operands.
        wanted: whether to keep anything.
        gradient: memory like `of.weight`, contiguous and float32, if there is to be such a gradient.
    """

    def __init__(self, of: Operands, wanted: bool, gradient: Tensor | None) -> None:
        rows, classes, dim = len(of.x), *of.weight.shape
        sizes = rows, classes, dim, of.chunk_size, of.products.dtype.itemsize
        where = layout(*sizes, gradient is not None)
        self._layout = where if wanted else where._replace(apart=0, inside=0)
        self._gradient = gradient
        self._chunk_size, self._dtype = of.chunk_size, of.products.dtype
        num_kept = self._layout.apart + self._layout.inside
        self._references = of.x.new_empty(num_kept, rows)
        # The last row is of all chunks that are not kept.
        self._inverses = of.x.new_empty(num_kept + 1, of.chunk_size)
        self._apart: list[Tensor] = []
        self._inside: list[KeptChunk] = []

    def place(self, nth: int, num_classes: int) -> Place:
        """Of the nth chunk, which has so many classes."""
        before = self._num_inside_before(nth)
        if before < 0 and nth >= self._layout.apart:
            return Place(None, None, self._inverses[-1, :num_classes])
        at = nth if before < 0 else self._layout.apart + before
        reference, inverse = self._references[at], self._inverses[at, :num_classes]
        if before < 0 or self._gradient is None:
            return Place(None, reference, inverse)
        rows = len(reference)
        start = before * rows * self._chunk_size
        numbers = self._gradient.view(-1).view(self._dtype)
        here = numbers[start : start + rows * num_classes].view(rows, num_classes)
        return Place(here, reference, inverse)

    def take_in(self, nth: int, place: Place, numerators: Tensor) -> None:
        """Keep a chunk, if it is one to keep; all is written to its place."""
        if place.keeps_cosines:
            self._apart.append(numerators)
        elif place.reference is not None:
            self._inside.append(KeptChunk(nth, numerators, place.reference, place.inverse))

    def release(self) -> list[Tensor]:
        """The numerators in memory of their own, once; for autograd, which frees them after a backward."""
        apart, self._apart = self._apart, []
        return apart

    def take(self, apart: Sequence[Tensor]) -> tuple[Tensor | None, list[KeptChunk]]:
        """The gradient's memory, and the chunks in the order in which they must be read.

        A second backward gets no memory, and only the numerators of `apart` (of `release`).
        """
        gradient, inside = self._gradient, self._inside
        self._gradient, self._inside = None, []
        chunks = [
            KeptChunk(nth, of, self._references[nth], self._inverses[nth, : of.shape[1]])
            for nth, of in enumerate(apart)
        ]
        return gradient, [*reversed(inside), *chunks]

    def _num_inside_before(self, nth: int) -> int:
        """The number of chunks in the gradient before the nth; negative if that is not there."""
        return nth - (self._layout.chunks - self._layout.inside)


def layout(
    rows: int, classes: int, dim: int, chunk_size: int, itemsize: int, in_gradient: bool
) -> Layout:
    """What is kept of numerators with so many bytes each."""
    chunks = -(-classes // chunk_size)  # the last may be smaller
    of_class = rows * itemsize
    inside = 0
    if in_gradient and of_class <= FLOAT32 * dim:
        inside = chunks
    elif in_gradient:
        inside = classes * FLOAT32 * dim // (of_class * chunk_size)
    return Layout(chunks, min(KEPT_BYTES // (of_class * chunk_size), chunks - inside), inside)
