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
        self._inverses = of.x.new_empty(num_kept, of.chunk_size)
        self._apart: list[Tensor] = []
        self._inside: list[KeptChunk] = []

    def place(self, nth: int, y: Tensor) -> Tensor:
        """Where the numerators of the nth chunk's y (B, K) are to go: into the gradient, or over y."""
        if self._gradient is None or (before := self._num_inside_before(nth)) < 0:
            return y
        start = before * len(y) * self._chunk_size
        numbers = self._gradient.view(-1).view(self._dtype)
        return numbers[start : start + y.numel()].view_as(y)

    def take_in(self, nth: int, numerators: Tensor, reference: Tensor, inverse: Tensor) -> None:
        """Keep a chunk, if it is one to keep; its numerators are where `place` said."""
        if (before := self._num_inside_before(nth)) >= 0:
            at = self._layout.apart + before
        elif nth < self._layout.apart:
            at = nth
            self._apart.append(numerators)
        else:
            return
        self._references[at] = reference
        self._inverses[at, : len(inverse)] = inverse
        if before >= 0:
            self._inside.append(self._chunk(nth, at, numerators))

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
        chunks = [self._chunk(nth, nth, numerators) for nth, numerators in enumerate(apart)]
        return gradient, [*reversed(inside), *chunks]

    def _num_inside_before(self, nth: int) -> int:
        """The number of chunks in the gradient before the nth; negative if that is not there."""
        return nth - (self._layout.chunks - self._layout.inside)

    def _chunk(self, nth: int, at: int, numerators: Tensor) -> KeptChunk:
        inverse = self._inverses[at, : numerators.shape[1]]
        return KeptChunk(nth, numerators, self._references[at], inverse)


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
