"""The fused algorithm in chunks of classes that stay in the cache; for CPUs, and any other device.

Forward, one pass over the class centres with an online log-sum-exp (docs/losses.md (3)-(5)):

    lse_i = log sum_j e^(s N_ij)        direction_i = sum_j q_ij N'_ij w_j        q_ij = e^(s N_ij - lse_i)

`direction` is the gradient in the unit embedding but for a factor per row, so the backward owes only
the class centres: one more pass that computes the same cosines again. 8 B C D flops, and nothing of
size B x C. Logits are kept in base 2, y = s log2(e) c, because exp2 is four times as fast as exp here;
in y, N' and N keep their form with rescaled coefficients, so no pass over a chunk is spent on s.

Legend: x (B, D) unit embeddings, w (K, D) a chunk of unit class centres, y (B, K) cosines in base-2
logits, z (B, K) the same after N, lift (B, K) the excess dz/dy - 1 on hard negatives.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusedface.kernels.primitive import CosineLse, NegativeStats, Spec, compute_dtype
from fusedface.kernels.products import Products
from fusedface.kernels.unit import inverse_norms, project

LOG2_E = math.log2(math.e)
CHUNK_ELEMENTS = 2**18  # of y: four such buffers in float32 are 4 MB, which the last cache holds
MIN_CHUNK, MAX_CHUNK = 256, 4096  # classes: fewer make slow products, more overflow the cache
ABSENT = -1e30  # y of the target among the negatives: never hard, never largest, exp2 of it is 0


@torch.compiler.disable  # its loop over chunks is no graph; what surrounds it still compiles
def cosine_lse(
    embeddings: Tensor, weight: Tensor, labels: Tensor, threshold: Tensor, spec: Spec
) -> CosineLse:
    """See `Primitive`. Not differentiable twice."""
    # Reading a tensor `linear` is the one place where a GPU would wait.
    hard = _Hard(spec.hard.square, float(spec.hard.linear), spec.hard.constant)
    cos_y, lse, *stats = _ChunkedLse.apply(embeddings, weight, labels, threshold, spec, hard)
    return CosineLse(cos_y, lse, NegativeStats(*stats))


class _Hard(NamedTuple):
    """A HardMap whose numbers are all known on the host."""

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
            totals.add(sweep, sweep.logits(chunk))
        lse = totals.lse()
        cos_y = (sweep.x * sweep.target_centres()).sum(dim=1)
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
            d_x = direction * d_negatives + sweep.target_centres() * d_target
            d_embeddings = project(d_x, sweep.x, sweep.inverse_norm_x).to(embeddings.dtype)
        if ctx.needs_input_grad[1]:
            d_weight = _weight_gradient(sweep, lse * LOG2_E, d_negatives, d_target)
        return d_embeddings, d_weight, None, None, None, None


def _weight_gradient(sweep: "_Sweep", lse: Tensor, d_negatives: Tensor, d_target: Tensor) -> Tensor:
    """d loss / d weight (C, D); `lse` (B,) in base 2."""
    d_weight = torch.empty_like(sweep.weight)
    x_negatives, x_target = sweep.x * d_negatives, sweep.x * d_target
    d_w_buffer = torch.empty(
        sweep.chunk_size, sweep.x.shape[1], dtype=sweep.dtype, device=sweep.x.device
    )
    for chunk in sweep.chunks():
        logits = sweep.logits(chunk)
        q = logits.z.sub_(lse[:, None]).exp2_()
        if logits.lift is not None:
            q = q.addcmul_(q, logits.lift)
        d_w = d_w_buffer[: chunk.stop - chunk.start]
        sweep.products.into_gradient(d_w, q.T, x_negatives)
        d_w.index_add_(0, chunk.columns, x_target[chunk.rows])
        d_weight[chunk.start : chunk.stop] = project(d_w, logits.w, logits.inverse_norm_w)
    return d_weight


class _Chunk(NamedTuple):
    """Classes [start, stop); the rows whose target is among them, and its column in the chunk."""

    start: int
    stop: int
    rows: Tensor
    columns: Tensor


class _Logits(NamedTuple):
    """Of one chunk; buffers that the next chunk overwrites."""

    w: Tensor  # [K, D]
    inverse_norm_w: Tensor  # [K]
    y: Tensor  # [B, K]
    z: Tensor  # [B, K]; y itself where negatives are not re-weighted
    hard: Tensor  # [B, K], 0 or 1
    lift: Tensor | None  # [B, K]


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
        _, self.inverse_norm_x = inverse_norms(x)
        self.x = x * self.inverse_norm_x[:, None]
        self._x_base2 = self.x * self.base2
        self._threshold = (threshold * self.base2)[:, None]

        rows, classes = len(x), len(weight)
        self.chunk_size = min(max(CHUNK_ELEMENTS // rows, MIN_CHUNK), MAX_CHUNK, classes)
        self._buffers = torch.empty(4, rows * self.chunk_size, dtype=self.dtype, device=x.device)
        self._w_buffer = torch.empty(self.chunk_size, x.shape[1], dtype=self.dtype, device=x.device)

    def target_centres(self) -> Tensor:
        """Unit class centres of the targets, (B, D); any row where the label is -1."""
        w = self.weight[self.labels.clamp_min(0)].to(self.dtype)
        return w * inverse_norms(w)[1][:, None]

    def chunks(self) -> Iterator[_Chunk]:
        """All classes, in order."""
        ordered, rows = self.labels.sort()
        starts = range(0, len(self.weight), self.chunk_size)
        edges = torch.tensor([*starts, len(self.weight)], device=ordered.device)
        bounds = torch.searchsorted(ordered, edges).tolist()
        for i, start in enumerate(starts):
            here = slice(bounds[i], bounds[i + 1])
            stop = min(start + self.chunk_size, len(self.weight))
            yield _Chunk(start, stop, rows[here], ordered[here] - start)

    def logits(self, chunk: _Chunk) -> _Logits:
        """Cosines of one chunk and what N makes of them."""
        num = chunk.stop - chunk.start
        rows = len(self.x)
        y, hard, lift, z = (b[: rows * num].view(rows, num) for b in self._buffers)

        centres = self.weight[chunk.start : chunk.stop].to(self.dtype)
        _, inverse = inverse_norms(centres)
        w = torch.mul(centres, inverse[:, None], out=self._w_buffer[:num])
        self.products.into(y, self._x_base2, w.T)
        y[chunk.rows, chunk.columns] = ABSENT

        torch.gt(y, self._threshold, out=hard)
        if self.hard == IDENTITY:
            return _Logits(w, inverse, y, y, hard, None)
        self._reweight(y, hard, lift, z)
        return _Logits(w, inverse, y, z, hard, lift)

    def _reweight(self, y: Tensor, hard: Tensor, lift: Tensor, z: Tensor) -> None:
        """z <- base2 N(y / base2); lift <- N' - 1 where hard, 0 elsewhere.

        With a = square / base2 and l = linear - 1, where hard: lift = 2 a y + l and
        z = y + a y^2 + l y + base2 constant = y + y (lift + l) / 2 + base2 constant.
        """
        square, linear, constant = self.hard
        if square:
            torch.add(y.new_tensor(linear - 1.0), y, alpha=2.0 * square / self.base2, out=lift)
            lift.mul_(hard)
            torch.add(lift, hard, alpha=linear - 1.0, out=z)
            torch.addcmul(y, y, z, value=0.5, out=z)
        else:
            torch.mul(hard, linear - 1.0, out=lift)
            torch.addcmul(y, y, lift, out=z)
        if constant:
            z.add_(hard, alpha=constant * self.base2)


class _Totals:
    """What the forward sums up over the chunks; `_largest` and `_total` are the online log-sum-exp."""

    def __init__(self, sweep: _Sweep, with_direction: bool) -> None:
        zero = sweep.x.new_zeros(len(sweep.x))
        self._largest, self._total = zero - torch.inf, zero.clone()
        self._direction = torch.zeros_like(sweep.x) if with_direction else None
        self._max_y, self._num_hard = zero - torch.inf, zero.clone()
        self._lift_min, self._lift_sum = zero + torch.inf, zero.clone()
        # N' - 1 lies below it, so `lift - ceiling` is negative where hard.
        self._ceiling = 2.0 * sweep.hard.square + abs(sweep.hard.linear) + 1.0

    def add(self, sweep: _Sweep, logits: _Logits) -> None:
        """Take in one chunk; overwrites its y and z."""
        max_y = logits.y.amax(dim=1)
        torch.maximum(self._max_y, max_y, out=self._max_y)
        self._num_hard.add_(logits.hard.sum(dim=1))
        max_z = max_y if logits.lift is None else logits.z.amax(dim=1)
        if logits.lift is not None and sweep.hard.square:
            self._add_lift(logits.lift, logits.hard, spare=logits.y)

        largest = torch.maximum(self._largest, max_z)
        rescale = (self._largest - largest).exp2_()
        p = logits.z.sub_(largest[:, None]).exp2_()
        self._total.mul_(rescale).add_(p.sum(dim=1))
        self._largest = largest
        if self._direction is not None:
            if logits.lift is not None:
                p = p.addcmul_(p, logits.lift)
            sweep.products.add(self._direction.mul_(rescale[:, None]), p, logits.w)

    def _add_lift(self, lift: Tensor, hard: Tensor, spare: Tensor) -> None:
        self._lift_sum.add_(lift.sum(dim=1))
        least = torch.add(lift, hard, alpha=-self._ceiling, out=spare).amin(dim=1)
        least = (least + self._ceiling).where(least < 0, least.new_tensor(torch.inf))
        torch.minimum(self._lift_min, least, out=self._lift_min)

    def lse(self) -> Tensor:
        """log sum_j e^(s N_ij), (B,)."""
        return (self._largest + self._total.log2()) / LOG2_E

    def direction(self) -> Tensor | None:
        """sum_j q_ij N'_ij w_j, (B, D)."""
        return None if self._direction is None else self._direction / self._total[:, None]

    def stats(self, sweep: _Sweep) -> NegativeStats:
        """See `NegativeStats`; the largest slope is that of the largest cosine (HardMap: square >= 0)."""
        max_cosine = self._max_y / sweep.base2
        any_hard = self._num_hard > 0
        slope_max = 2.0 * sweep.hard.square * max_cosine + sweep.hard.linear
        if sweep.hard.square:
            slope_min, slope_sum = self._lift_min + 1.0, self._lift_sum + self._num_hard
        else:
            slope_min, slope_sum = slope_max, slope_max * self._num_hard
        return NegativeStats(
            max_cosine=max_cosine,
            num_hard=self._num_hard,
            slope_min=slope_min.where(any_hard, slope_min.new_tensor(torch.inf)),
            slope_max=slope_max.where(any_hard, slope_max.new_tensor(-torch.inf)),
            slope_sum=slope_sum,
        )
