"""One backbone on several processes, with averaged gradients and batch statistics of the whole batch.

With both, and class centres split over the processes (`MarginHead`, `process_group`), a step equals that of
a single process with the whole batch.
"""

import inspect
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from fusedface.models import Backbone
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.precision import Precision


def synchronise(model: Backbone, processes: Processes) -> Backbone:
    """Make batch normalisation use the statistics of the rows of all processes.

    Parameters, buffers and their names do not change.
    """
    if processes.group is None:
        return model
    if next(model.parameters()).device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # pyright: ignore[reportReturnType]
    for parent in [*model.modules()]:
        for name, layer in [*parent.named_children()]:
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, SharedBatchNorm(layer, processes.group))
    return model


def replicate(model: Backbone, processes: Processes) -> nn.Module:
    """The module that embeds images in training; its backward averages the gradients of all processes."""
    if processes.group is None or not any(p.requires_grad for p in model.parameters()):
        return model
    # Buffers are the same everywhere. The name of the option is new in torch 2.13.
    parameters = inspect.signature(DistributedDataParallel).parameters
    buffers = (
        "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    )
    options: dict[str, Any] = {buffers: False}
    return DistributedDataParallel(
        _WithUnused(model),
        process_group=processes.group,
        # Otherwise all steps after the first sum in another order than the first, and a run that
        # goes on from a checkpoint would differ from one that was never stopped.
        find_unused_parameters=True,
        **options,
    )


class _WithUnused(nn.Module):
    """A network with an unused parameter, because DDP warns if it finds none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.unused = nn.Parameter(next(model.parameters()).detach().new_zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def grad_scaler(precision: Precision, processes: Processes) -> torch.amp.GradScaler:
    """As `Precision.grad_scaler`; if one process has to skip a step, all skip it."""
    scaler = precision.grad_scaler()
    if processes.group is None or not scaler.is_enabled():
        return scaler
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

    return ShardedGradScaler(precision.device.type, process_group=processes.group)


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the rows of all processes, each with the same number of rows.

    For CPUs, where `nn.SyncBatchNorm` does not run.

    Args:
        layer: the layer to take parameters, buffers and settings from.
        group: the group of the processes.
    """

    def __init__(self, layer: nn.modules.batchnorm._BatchNorm, group: dist.ProcessGroup) -> None:
        nn.Module.__init__(self)
        self.__dict__.update({k: v for k, v in layer.__dict__.items() if not k.startswith("__")})
        self.ranks = _Ranks(group)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  its name in torch
        """Normalise (B, C) or (B, C, H, W)."""
        if not self.training:
            stats = self.running_mean, self.running_var
            return F.batch_norm(input, *stats, self.weight, self.bias, False, 0.0, self.eps)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        over = [0, *range(2, x.ndim)]
        shape = [1, -1, *(1 for _ in over[1:])]
        count = self.ranks.group.size() * x.numel() // x.shape[1]
        mean = _Sum.apply(x.sum(over), self.ranks.group) / count
        centred = x - mean.view(shape)
        var = _Sum.apply(centred.square().sum(over), self.ranks.group) / count
        self._remember(mean.detach(), var.detach() * (count / max(count - 1, 1)))
        y = centred * torch.rsqrt(var + self.eps).view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:
            share = 1.0 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(var.to(self.running_var.dtype), share)


class _Ranks:
    """The process group of a layer, which copies of the layer share."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class _Sum(torch.autograd.Function):
    """The sum over the processes. Each of them uses the sum, so its gradient is summed too."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = part.contiguous().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_total: Tensor
    ) -> tuple[Tensor, None]:
        d_part = d_total.contiguous().clone()
        dist.all_reduce(d_part, group=ctx.group)
        return d_part, None
