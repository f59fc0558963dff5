"""The fused algorithm in chunks of classes that stay in the cache; for CPUs, and any other device.

Forward, one pass over the class centres with an online log-sum-exp (docs/losses.md (3)-(5)):

    lse_i = log sum_j e^(s N_ij)        direction_i = sum_j q_ij N'_ij w_j        q_ij = e^(s N_ij - lse_i)

`direction` is the gradient in the unit embedding up to a factor per row, so the backward owes only
the class centres: one more pass that computes the same cosines again. 8 B C D flops, and nothing of
size B x C. Logits are kept in base 2, y = s log2(e) c, because exp2 is four times as fast as exp here;
in y, N' and N keep their form with rescaled coefficients, so no pass over a chunk is spent on s.

A pass over one chunk of one tensor costs about a percent of the whole (docs/performance.md): they are
counted. The backward has classes as rows, which is the order that its products are fastest in.

Legend: x (B, D) unit embeddings, w (K, D) a chunk of unit class centres, y (B, K) cosines in base-2
logits, z (B, K) the same after N, lift (B, K) the excess dz/dy - 1 on hard negatives, hard (B, K) 0 or 1.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusedface.kernels.interface.normalisation import inverse_norms, min_norm, project
from fusedface.kernels.interface.primitive import (
    CosineLse,
    NegativeStats,
    Primitive,
    Spec,
    compute_dtype,
)
from fusedface.kernels.products import Products
from fusedface.kernels.sgd import RowsSGD

LOG2_E = math.log2(math.e)
CHUNK_ELEMENTS = 2**19  # of y: four such tensors in float32 are 8 MB, which the last cache holds
MIN_CHUNK, MAX_CHUNK = 256, 4096  # classes: fewer make slow products, more overflow the cache
ABSENT = -1e30  # y of the target among the negatives: never hard, never largest, exp2 of it is 0


def cosine_lse(
    embeddings: Tensor, weight: Tensor, labels: Tensor, threshold: Tensor, spec: Spec
) -> CosineLse:
    """See `Primitive`. Not differentiable twice."""
    run: Primitive = _cosine_lse
    if torch.compiler.is_compiling():
        # The loop over chunks is no graph; what surrounds it still compiles. Not a decorator: that
        # would load the whole compiler, two seconds, for everyone who imports this package.
        run = cast(Primitive, torch.compiler.disable(_cosine_lse))
    return run(embeddings, weight, labels, threshold, spec)


def _cosine_lse(
    embeddings: Tensor, weight: Tensor, labels: Tensor, threshold: Tensor, spec: Spec
) -> CosineLse:
    # Reading a tensor `linear` is the one place where a GPU would wait.
    hard = _Hard(spec.hard.square, float(spec.hard.linear), spec.hard.constant)
    cos_y, lse, *stats = _ChunkedLse.apply(embeddings, weight, labels, threshold, spec, hard)
    return CosineLse(cos_y, lse, NegativeStats(*stats))


class _Hard(NamedTuple):
    """A Reweighting whose numbers are all known on the host."""

    square: float
    linear: float
    constant: float


IDENTITY = _Hard(0.0, 1.0, 0.0)


class _ChunkedLse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        threshold: Tensor,
        spec: Spec,
        hard: _Hard,
    ) -> tuple[Tensor, ...]:
        sweep = _Sweep(embeddings, weight, labels, threshold, spec, hard)
        needs_direction = ctx.needs_input_grad[0]
        totals = _Totals(sweep, needs_direction)
        for chunk in sweep.chunks():
            totals.add(sweep, chunk)
        lse = totals.lse()
        cos_y = (sweep.x * sweep.target_centres()[0]).sum(dim=1)
        stats = totals.stats(sweep)
        ctx.mark_non_differentiable(*stats)
        ctx.save_for_backward(
            embeddings,
            weight,
            labels,
            threshold,
            lse,
            totals.direction() if needs_direction else None,
        )
        ctx.spec, ctx.hard = spec, hard
        return cos_y, lse, *stats

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        d_cos_y, d_lse = grad_outputs[:2]
        embeddings, weight, labels, threshold, lse, direction = ctx.saved_tensors
        sweep = _Sweep(embeddings, weight, labels, threshold, ctx.spec, ctx.hard)
        d_negatives = (ctx.spec.scale * d_lse)[:, None]  # with direction: through lse     [B, 1]
        d_target = (d_cos_y * (labels >= 0))[:, None]  # through the target cosine         [B, 1]

        d_embeddings = d_weight = None
        if direction is not None:
            d_x = direction * d_negatives + sweep.target_centres()[0] * d_target
            d_x = project(d_x, sweep.x).mul_(sweep.inverse_norm_x[:, None])
            d_embeddings = d_x.to(embeddings.dtype)
        if ctx.needs_input_grad[1]:
            gradients = _chunk_gradients(sweep, lse * LOG2_E, d_negatives, d_target)
            if ctx.spec.update is None:
                d_weight = _written(gradients, weight)
            else:
                _apply(gradients, RowsSGD(weight, ctx.spec.update, d_negatives, d_target))
        return d_embeddings, d_weight, None, None, None, None


def _chunk_gradients(
    sweep: "_Sweep", lse: Tensor, d_negatives: Tensor, d_target: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """d loss / d weight, a chunk at a time: its first class, (K, D) but for a factor per row, (K, 1).

    `lse` (B,) is in base 2. The next chunk overwrites nothing of it.
    """
    x_negatives, x_target = sweep.x * d_negatives, sweep.x * d_target
    for chunk in sweep.chunks():
        w, inverse = sweep.unit_centres(chunk)
        y = sweep.products(w, sweep.x_base2.T)  # [K, B], as what follows
        y[chunk.columns, chunk.rows] = ABSENT
        _, lift = sweep.reweight(y, sweep.threshold)
        q = y.sub_(lse).exp2_()
        if lift is not None:
            q.addcmul_(q, lift)
        d_w = sweep.products.of_gradient(q, x_negatives)
        d_w.index_add_(0, chunk.columns, x_target[chunk.rows])
        yield chunk.start, project(d_w, w), inverse[:, None]


def _written(gradients: Iterator[tuple[int, Tensor, Tensor]], weight: Tensor) -> Tensor:
    """All of them, (C, D)."""
    d_weight = torch.empty_like(weight)
    for start, d_w, factor in gradients:
        torch.mul(d_w, factor, out=d_weight[start : start + len(d_w)])
    return d_weight


def _apply(gradients: Iterator[tuple[int, Tensor, Tensor]], sgd: RowsSGD) -> None:
    """A step of SGD on each chunk as soon as its gradient is there."""
    if sgd.does_nothing:
        return
    for start, d_w, factor in gradients:
        sgd.step(start, d_w.mul_(factor * sgd.unscale))


class _Chunk(NamedTuple):
    """Classes [start, stop), the nth such; the rows whose target is among them, and its column."""

    nth: int
    start: int
    stop: int
    rows: Tensor
    columns: Tensor


class _Sweep:
    """A pass over all class centres, chunk by chunk."""

    def __init__(
        self,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        threshold: Tensor,
        spec: Spec,
        hard: _Hard,
    ) -> None:
        self.dtype = compute_dtype(embeddings, weight)
        self.weight, self.labels, self.hard = weight, labels, hard
        self.products = Products(embeddings.device, spec.precision)
        self.base2 = spec.scale * LOG2_E  # y = base2 c

        x = embeddings.to(self.dtype)
        _, self.inverse_norm_x = inverse_norms(x, min_norm(embeddings.dtype))
        self.x = x * self.inverse_norm_x[:, None]
        self.x_base2 = self.x * self.base2
        self.threshold = threshold * self.base2

        rows, classes = len(x), len(weight)
        self.chunk_size = min(max(CHUNK_ELEMENTS // rows, MIN_CHUNK), MAX_CHUNK, classes)
        self.starts = range(0, classes, self.chunk_size)
        self._buffers = self.x.new_empty(2, rows * self.chunk_size)
        self._w_buffer = self.x.new_empty(self.chunk_size, x.shape[1])

    def target_centres(self) -> tuple[Tensor, Tensor]:
        """Unit class centres of the targets, (B, D), any row where the label is -1; inverse lengths."""
        w = self.weight[self.labels.clamp_min(0)].to(self.dtype)
        inverse = inverse_norms(w, min_norm(self.weight.dtype))[1]
        return w.mul_(inverse[:, None]), inverse

    def chunks(self) -> Iterator[_Chunk]:
        """All classes, in order."""
        ordered, rows = self.labels.sort()
        edges = torch.tensor([*self.starts, len(self.weight)], device=ordered.device)
        bounds = torch.searchsorted(ordered, edges).tolist()
        for i, start in enumerate(self.starts):
            here = slice(bounds[i], bounds[i + 1])
            stop = min(start + self.chunk_size, len(self.weight))
            yield _Chunk(i, start, stop, rows[here], ordered[here] - start)

    def unit_centres(self, chunk: _Chunk) -> tuple[Tensor, Tensor]:
        """w (K, D), which the next chunk overwrites, and the inverse lengths (K,)."""
        centres = self.weight[chunk.start : chunk.stop].to(self.dtype)
        _, inverse = inverse_norms(centres, min_norm(self.weight.dtype))
        w = torch.mul(centres, inverse[:, None], out=self._w_buffer[: len(centres)])
        return w, inverse

    def reweight(self, y: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor | None]:
        """y <- z = base2 N(y / base2); returns hard and lift, which the next chunk overwrites.

        With a = square / base2 and l = linear - 1, where hard: lift = 2 a y + l and
        z = y + a y^2 + l y + base2 constant = y + (lift^2 - l^2) / 4 a + base2 constant.
        """
        hard, lift = (b[: y.numel()].view_as(y) for b in self._buffers)
        torch.gt(y, threshold, out=hard)
        if self.hard == IDENTITY:
            return hard, None
        excess, step = self.hard.linear - 1.0, self.hard.constant * self.base2
        if self.hard.square:
            a = self.hard.square / self.base2
            torch.add(y.new_tensor(excess), y, alpha=2.0 * a, out=lift).mul_(hard)
            y.addcmul_(lift, lift, value=0.25 / a)
            step -= excess * excess * 0.25 / a
        else:
            torch.mul(hard, excess, out=lift)
            y.addcmul_(y, lift)
        if step:
            y.add_(hard, alpha=step)
        return hard, lift


class _Totals:
    """What the forward sums up over the chunks; `_largest` and `_total` are the online log-sum-exp."""

    def __init__(self, sweep: _Sweep, with_direction: bool) -> None:
        zero = sweep.x.new_zeros(len(sweep.x))
        self._largest, self._total = zero - torch.inf, zero.clone()
        self._direction = torch.zeros_like(sweep.x) if with_direction else None
        # A row for each chunk.
        self._max_y, self._num_hard, self._least, self._lift_sum = zero.new_empty(
            4, len(sweep.starts), len(zero)
        )
        # N' - 1 lies below it, so `lift - ceiling` is negative where hard.
        self._ceiling = 2.0 * sweep.hard.square + abs(sweep.hard.linear) + 1.0

    def add(self, sweep: _Sweep, chunk: _Chunk) -> None:
        """Take in one chunk."""
        w, _ = sweep.unit_centres(chunk)
        y = sweep.products(sweep.x_base2, w.T)  # [B, K], as what follows
        y[chunk.rows, chunk.columns] = ABSENT
        max_y = torch.amax(y, dim=1, out=self._max_y[chunk.nth])
        hard, lift = sweep.reweight(y, sweep.threshold[:, None])
        torch.sum(hard, dim=1, out=self._num_hard[chunk.nth])

        largest = torch.maximum(self._largest, max_y if lift is None else y.amax(dim=1))
        rescale = (self._largest - largest).exp2_()
        p = y.sub_(largest[:, None]).exp2_()
        self._total.mul_(rescale).add_(p.sum(dim=1))
        self._largest = largest
        if self._direction is not None:
            if lift is not None:
                p.addcmul_(p, lift)
            self._direction.mul_(rescale[:, None]).add_(sweep.products.of_gradient(p, w))
        if lift is not None and sweep.hard.square:
            torch.sum(lift, dim=1, out=self._lift_sum[chunk.nth])
            lift.sub_(hard, alpha=self._ceiling)
            torch.amin(lift, dim=1, out=self._least[chunk.nth])

    def lse(self) -> Tensor:
        """log sum_j e^(s N_ij), (B,)."""
        return (self._largest + self._total.log2()) / LOG2_E

    def direction(self) -> Tensor | None:
        """sum_j q_ij N'_ij w_j, (B, D)."""
        return None if self._direction is None else self._direction / self._total[:, None]

    def stats(self, sweep: _Sweep) -> NegativeStats:
        """See `NegativeStats`; the largest slope is that of the largest cosine, as square >= 0."""
        max_cosine = self._max_y.amax(dim=0) / sweep.base2
        num_hard = self._num_hard.sum(dim=0)
        any_hard = num_hard > 0
        slope_max = 2.0 * sweep.hard.square * max_cosine + sweep.hard.linear
        if sweep.hard.square:
            slope_min = self._least.amin(dim=0) + self._ceiling + 1.0
            slope_sum = self._lift_sum.sum(dim=0) + num_hard
        else:
            slope_min, slope_sum = slope_max, slope_max * num_hard
        return NegativeStats(
            max_cosine=max_cosine,
            num_hard=num_hard,
            slope_min=slope_min.where(any_hard, slope_min.new_tensor(torch.inf)),
            slope_max=slope_max.where(any_hard, slope_max.new_tensor(-torch.inf)),
            slope_sum=slope_sum,
        )
