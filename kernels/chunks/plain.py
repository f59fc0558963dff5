"""The two passes over all class centres in torch's operators.

Each operator on a chunk costs about one percent of the whole (docs/performance.md), so there are as few
as possible. The backward has classes as rows: in that order its products are fastest.

Legend: w (K, D) a chunk of unit class centres, y (B, K) cosines in base-2 logits, z (B, K) the same after
N, lift (B, K) the excess dz/dy - 1 on hard negatives, hard (B, K) 0 or 1.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.chunks.operands import IDENTITY, Operands, Totals
from fusedface.kernels.interface.normalisation import inverse_norms, min_norm, project

ABSENT = -1e30  # y of the target among the negatives: never hard, never largest, exp2 of it is 0


def sum_up(of: Operands, with_direction: bool) -> Totals:
    """The forward, with an online log-sum-exp."""
    sweep = _Sweep(of)
    sums = _Sums(sweep, with_direction)
    for chunk in sweep.chunks():
        sums.add(chunk)
    return sums.totals()


def gradients(
    of: Operands, lse: Tensor, x_negatives: Tensor, x_target: Tensor, into: Tensor | None
) -> Iterator[tuple[int, Tensor]]:
    """Yield d loss / d weight by chunks: first class and (K, D), written to `into` (C, D) if it is given.

    `lse` (B,) is in base 2; x_negatives and x_target (B, D) are x times the gradient through either.
    """
    sweep = _Sweep(of)
    for chunk in sweep.chunks():
        w, inverse = sweep.unit_centres(chunk)
        y = of.products(w, of.x_base2.T)  # [K, B], as what follows
        y[chunk.columns, chunk.rows] = ABSENT
        _, lift = sweep.reweight(y, of.threshold)
        q = y.sub_(lse).exp2_()
        if lift is not None:
            q.addcmul_(q, lift)
        d_w = of.products.of_gradient(q, x_negatives)
        d_w.index_add_(0, chunk.columns, x_target[chunk.rows])
        out = d_w if into is None else into[chunk.start : chunk.stop]
        yield chunk.start, torch.mul(project(d_w, w), inverse[:, None], out=out)


class _Chunk(NamedTuple):
    """Classes [start, stop), the nth chunk; the rows whose target is one of them, and its column."""

    nth: int
    start: int
    stop: int
    rows: Tensor
    columns: Tensor


class _Sweep:
    """A pass over all class centres, chunk by chunk, with the tensors that chunks share."""

    def __init__(self, of: Operands) -> None:
        self.of = of
        self.starts = range(0, len(of.weight), of.chunk_size)
        self._buffers = of.x.new_empty(2, len(of.x) * of.chunk_size)
        self._w_buffer = of.x.new_empty(of.chunk_size, of.x.shape[1])

    def chunks(self) -> Iterator[_Chunk]:
        """All classes, in order."""
        ordered, rows = self.of.labels.sort()
        num_classes = len(self.of.weight)
        edges = torch.tensor([*self.starts, num_classes], device=ordered.device)
        bounds = torch.searchsorted(ordered, edges).tolist()
        for i, start in enumerate(self.starts):
            here = slice(bounds[i], bounds[i + 1])
            stop = min(start + self.of.chunk_size, num_classes)
            yield _Chunk(i, start, stop, rows[here], ordered[here] - start)

    def unit_centres(self, chunk: _Chunk) -> tuple[Tensor, Tensor]:
        """w (K, D), which the next chunk overwrites, and the inverse lengths (K,)."""
        centres = self.of.weight[chunk.start : chunk.stop].to(self.of.dtype)
        _, inverse = inverse_norms(centres, min_norm(self.of.weight.dtype))
        w = torch.mul(centres, inverse[:, None], out=self._w_buffer[: len(centres)])
        return w, inverse

    def reweight(self, y: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor | None]:
        """y <- z = base2 N(y / base2); returns hard and lift, which the next chunk overwrites.

        With N(y) - y = (a y + l) y + k, where hard: lift = 2 a y + l and
        z = y + (lift^2 - l^2) / 4 a + k.
        """
        hard, lift = (b[: y.numel()].view_as(y) for b in self._buffers)
        torch.gt(y, threshold, out=hard)
        if self.of.hard == IDENTITY:
            return hard, None
        a, l, step = self.of.excess
        if a:
            torch.add(y.new_tensor(l), y, alpha=2.0 * a, out=lift).mul_(hard)
            y.addcmul_(lift, lift, value=0.25 / a)
            step -= l * l * 0.25 / a
        else:
            torch.mul(hard, l, out=lift)
            y.addcmul_(y, lift)
        if step:
            y.add_(hard, alpha=step)
        return hard, lift


class _Sums:
    """The sums of the forward over the chunks; `_largest` and `_total` are the online log-sum-exp."""

    def __init__(self, sweep: _Sweep, with_direction: bool) -> None:
        self._sweep, x = sweep, sweep.of.x
        zero = x.new_zeros(len(x))
        self._largest, self._total = zero - torch.inf, zero.clone()
        self._direction = torch.zeros_like(x) if with_direction else None
        # A row for each chunk.
        self._max_y, self._num_hard, self._least, self._lift_sum = zero.new_empty(
            4, len(sweep.starts), len(zero)
        )
        # N' - 1 lies below it, so `lift - ceiling` is negative where hard.
        self._ceiling = 2.0 * sweep.of.hard.square + abs(sweep.of.hard.linear) + 1.0

    def add(self, chunk: _Chunk) -> None:
        """Take in one chunk."""
        sweep, of = self._sweep, self._sweep.of
        w, _ = sweep.unit_centres(chunk)
        y = of.products(of.x_base2, w.T)  # [B, K], as what follows
        y[chunk.rows, chunk.columns] = ABSENT
        max_y = torch.amax(y, dim=1, out=self._max_y[chunk.nth])
        hard, lift = sweep.reweight(y, of.threshold[:, None])
        torch.sum(hard, dim=1, out=self._num_hard[chunk.nth])

        largest = torch.maximum(self._largest, max_y if lift is None else y.amax(dim=1))
        rescale = (self._largest - largest).exp2_()
        p = y.sub_(largest[:, None]).exp2_()
        self._total.mul_(rescale).add_(p.sum(dim=1))
        self._largest = largest
        if self._direction is not None:
            if lift is not None:
                p.addcmul_(p, lift)
            self._direction.mul_(rescale[:, None]).add_(of.products.of_gradient(p, w))
        if lift is not None and of.hard.square:
            torch.sum(lift, dim=1, out=self._lift_sum[chunk.nth])
            lift.sub_(hard, alpha=self._ceiling)
            torch.amin(lift, dim=1, out=self._least[chunk.nth])

    def totals(self) -> Totals:
        """Over all chunks."""
        return Totals(
            largest=self._largest,
            total=self._total,
            max_y=self._max_y.amax(dim=0),
            num_hard=self._num_hard.sum(dim=0),
            least=self._least.amin(dim=0) + self._ceiling,
            lift_sum=self._lift_sum.sum(dim=0),
            direction=self._direction,
        )
