"""Class centres split over processes: the collectives around a backend, which knows no ranks.

Rank r of N has b rows of a batch and the centres of C_r classes, in the order of the ranks. All
embeddings are gathered, the backend runs on the rank's own centres with labels outside them as -1, and

    cos_y = sum_r cos_y^r        lse = log sum_r e^(lse^r)        d embeddings = sum_r d embeddings^r

so only B numbers and B x D embeddings travel, whatever C is (docs/scaling.md). Everything after the
log-sum-exp is computed on every rank from the same B numbers.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusedface.kernels import checks, few_classes
from fusedface.kernels.interface.normalisation import inverse_norms, min_norm
from fusedface.kernels.interface.primitive import Backend, CosineLse, Spec, compute_dtype
from fusedface.kernels.margins import NegativeStats, State

Group = dist.ProcessGroup | Literal["world"]
"""Processes that share the class centres; "world": all that torchrun has started."""

# States are equal to the bit on equal machines; rounding may differ between processors.
STATE_TOLERANCE = 1e-4


def resolve_group(group: Group) -> dist.ProcessGroup:
    """The process group itself.

    Raises:
        TypeError: it is not a process group.
        ValueError: there are no processes to share with, or this one is not in the group.
    """
    if group != "world" and not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f'process_group must be a torch.distributed.ProcessGroup or "world", got {group!r}'
        )
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError(
            "a process group needs the processes of torch.distributed: start the program with torchrun "
            "and call torch.distributed.init_process_group() first, or leave process_group out"
        )
    if group == "world":
        assert dist.group.WORLD is not None
        return dist.group.WORLD
    if dist.get_rank(group) < 0:
        raise ValueError(
            f"process_group must have this process in it, but rank {dist.get_rank()} is none of "
            f"its {dist.get_process_group_ranks(group)}"
        )
    return group


def classes_of(num_classes: int, rank: int, num_ranks: int) -> range:
    """The classes whose centres a rank holds: ceil(C / N) each, until there are none left.

    As `torch.chunk` and DTensor's `Shard(0)` have it, so that torch's sharded checkpoints fit.
    """
    size = -(-num_classes // num_ranks)
    return range(min(rank * size, num_classes), min((rank + 1) * size, num_classes))


@dataclass(frozen=True)
class Ranks:
    """The place of this rank's rows and class centres among those of all ranks."""

    group: dist.ProcessGroup
    num_rows: int
    """b, on every rank."""
    num_classes: int | Tensor
    """C. On a GPU this and `first_class` are 0-d tensors: reading them would wait for the device."""
    first_class: int | Tensor

    @property
    def count(self) -> int:
        """N."""
        return self.group.size()

    @property
    def own_rows(self) -> slice:
        """The rows of this rank among the gathered ones."""
        first = self.group.rank() * self.num_rows
        return slice(first, first + self.num_rows)

    def gather(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """All embeddings (N b, D), differentiable in this rank's, and all labels (N b,), int64."""
        return _Gather.apply(embeddings, self), all_gather(labels.long(), self.group)

    def over(self, run: Backend) -> Backend:
        """The same primitive over the class centres of all ranks."""
        return Backend(partial(_cosine_lse, self, run), partial(_target_cosine, self, run))

    def local(self, labels: Tensor, weight: Tensor) -> Tensor:
        """Labels as rows of this rank's class centres, -1 for classes of another rank."""
        own = labels - self.first_class
        return own.masked_fill((own < 0) | (own >= len(weight)), -1)


def meet(embeddings: Tensor, weight: Tensor, state: State, training: bool, group: Group) -> Ranks:
    """Exchange sizes, dtypes, mode and state with the other ranks, and check that they agree.

    Raises:
        ValueError: ranks disagree; raised on every rank. On a GPU a device-side assertion takes its
            place, as for labels, because reading the answer would stall the queue.
    """
    group = resolve_group(group)
    common = {
        "the number of rows of embeddings": len(embeddings),
        "the embedding dimension": embeddings.shape[1],
        "the dtype of embeddings": checks.FLOATS.index(embeddings.dtype),
        "the dtype of weight": checks.FLOATS.index(weight.dtype),
        "training": training,
    }
    names = sorted(state)
    mine = torch.tensor(
        [len(weight), *common.values()], dtype=torch.float64, device=embeddings.device
    )
    mine = torch.cat([mine, *(state[name].detach().double().reshape(1) for name in names)])
    table = all_gather(mine[None], group)
    sizes, settings, states = table.split([1, len(common), len(names)], dim=1)
    strays = (states - states[0]).abs() > STATE_TOLERANCE * (1.0 + states[0].abs())
    rank = group.rank()
    if embeddings.device.type != "cpu":
        agree = (settings == settings[0]).all() & ~strays.any()
        torch.ops.aten._assert_async.msg(agree, "ranks differ in batch size, dtype, mode or state")
        return Ranks(group, len(embeddings), sizes.sum().long(), sizes[:rank].sum().long())
    for name, column in zip(common, settings.T, strict=True):
        if (column != column[0]).any():
            raise ValueError(_difference(name, column))
    for name, column, stray in zip(names, states.T, strays.T, strict=True):
        if stray.any():
            raise ValueError(_difference(f"state {name}", column))
    num_classes = int(sizes.sum())
    if num_classes < 2:
        raise ValueError(f"weight must hold at least 2 classes on all ranks, got {num_classes}")
    return Ranks(group, len(embeddings), num_classes, int(sizes[:rank].sum()))


def _difference(name: str, values: Tensor) -> str:
    """The error message that says how ranks differ."""
    shown: list[Any] = values.tolist()
    if "dtype" in name:
        shown = [str(checks.FLOATS[int(value)]) for value in shown]
    elif not name.startswith("state"):
        shown = [bool(value) if name == "training" else int(value) for value in shown]
    hint = ": fill up with rows whose label is ignore_index" if "rows" in name else ""
    listed = ", ".join(f"{value} on rank {rank}" for rank, value in enumerate(shown))
    return f"{name} must be the same on every rank, got {listed}{hint}"


def all_gather(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Rows (n, ...) of all ranks, (N n, ...), in their order; n must be the same everywhere."""
    gathered = rows.new_empty(group.size() * len(rows), *rows.shape[1:])
    # The older name warns from torch 2.13 on; the newer one is not in 2.11.
    run = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    run(gathered, rows.detach().contiguous(), group=group)
    return gathered


def reduce_scatter(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Sum (N n, ...) over the ranks; each rank gets its own part (n, ...)."""
    own = rows.new_empty(len(rows) // group.size(), *rows.shape[1:])
    run = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    run(own, rows.contiguous(), group=group)
    return own


class _Gather(torch.autograd.Function):
    """Rows of all ranks. The gradient is N times that of this rank's rows.

    Every rank differentiates the loss of the whole batch, and DistributedDataParallel divides what it
    sums over the ranks by N.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return all_gather(own, ranks.group)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_rows: Tensor
    ) -> tuple[Tensor, None]:
        return d_rows[ctx.ranks.own_rows] * ctx.ranks.count, None


class _SumGradient(torch.autograd.Function):
    """The identity. Its gradient is summed over the ranks, and given for this rank's rows only."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return rows.view_as(rows)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_rows: Tensor
    ) -> tuple[Tensor, None]:
        # A sum in half precision would round once for every rank.
        wide = torch.promote_types(d_rows.dtype, torch.float32)
        total = torch.zeros_like(d_rows)
        total[ctx.ranks.own_rows] = reduce_scatter(d_rows.to(wide), ctx.ranks.group)
        return total, None


class _Combine(torch.autograd.Function):
    """Combine the target cosines and log-sum-exps of all ranks; the inputs are this rank's, all (B,).

    The gradient needs no collective: all later computations are the same on every rank.
    """

    @staticmethod
    def forward(
        ctx: Any, ranks: Ranks, cos_y: Tensor, lse: Tensor, *own: Tensor
    ) -> tuple[Tensor, ...]:
        stats = NegativeStats(*own)
        largest = torch.stack([lse, stats.max_cosine, stats.slope_max, -stats.slope_min])
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=ranks.group)
        sums = torch.stack([cos_y, torch.exp(lse - largest[0]), stats.num_hard, stats.slope_sum])
        dist.all_reduce(sums, group=ranks.group)
        largest_lse, max_cosine, slope_max, slope_min = largest.unbind()
        all_cos_y, total, num_hard, slope_sum = sums.unbind()
        all_lse = largest_lse + total.log()
        ctx.save_for_backward(torch.exp(lse - all_lse))
        combined = NegativeStats(max_cosine, num_hard, -slope_min, slope_max, slope_sum)
        ctx.mark_non_differentiable(*combined)
        return all_cos_y, all_lse, *combined

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (share,) = ctx.saved_tensors
        d_cos_y, d_lse = grad_outputs[:2]
        return None, d_cos_y, d_lse * share, *(None for _ in NegativeStats._fields)


def _target_cosine(
    ranks: Ranks, run: Backend, embeddings: Tensor, weight: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """See `TargetCosine`; each target is of one rank, so the sum rounds nothing."""
    local = ranks.local(labels, weight)
    if len(weight) == 0:
        x = embeddings.to(compute_dtype(embeddings, weight))
        norms, _ = inverse_norms(x, min_norm(embeddings.dtype))
        cos_y = torch.zeros_like(norms)
    else:
        cos_y, norms = run.target_cosine(embeddings, weight, local)
        cos_y = cos_y.masked_fill(local < 0, 0.0)
    dist.all_reduce(cos_y, group=ranks.group)
    return cos_y, norms


def _cosine_lse(
    ranks: Ranks,
    run: Backend,
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    threshold: Tensor,
    spec: Spec,
) -> CosineLse:
    """See `Primitive`."""
    local = ranks.local(labels, weight)
    primitive = run.cosine_lse if len(weight) > 1 else few_classes.cosine_lse
    x = _SumGradient.apply(embeddings, ranks)
    cos_y, lse, stats = primitive(x, weight, local, threshold, spec)
    cos_y = cos_y.masked_fill(local < 0, 0.0)
    cos_y, lse, *combined = _Combine.apply(ranks, cos_y, lse, *stats)
    _check_centres(ranks, cos_y, lse, weight)
    return CosineLse(cos_y, lse, NegativeStats(*combined))


def _check_centres(ranks: Ranks, cos_y: Tensor, lse: Tensor, weight: Tensor) -> None:
    """Raise NonFiniteInputError on every rank for a class centre of any (CPU only)."""
    if lse.device.type != "cpu" or (cos_y.isfinite() & lse.isfinite()).all():
        return
    problem = None
    try:
        checks.check_centres(cos_y, lse, weight)
    except checks.NonFiniteInputError as error:
        problem = str(error)
    problems: list[str | None] = [None] * ranks.count
    dist.all_gather_object(problems, problem, group=ranks.group)
    for rank, found in enumerate(problems):
        if found is not None:
            raise checks.NonFiniteInputError("weight", f"{found}, on rank {rank}")
