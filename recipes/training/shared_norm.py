"""Batch normalisation over the rows of several processes, on CPUs."""

from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


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
