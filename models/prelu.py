"""PReLU with a backward that is fast on CPUs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fusedface.kernels.chunks import build
from fusedface.kernels.chunks.library import Library

COMPILED_FROM = 2**17  # numbers: no compiler is started for less


class PReLU(nn.PReLU):
    """nn.PReLU, exactly, with a backward of vectorised passes on CPUs: one where a C compiler is there.

    torch's own backward took 42 % of the training step of MobileFaceNet there (docs/performance.md).
    GPUs, compiled graphs and inference get torch's operator.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """(B, C, H, W) to the same: x where x > 0, else weight x."""
        if (
            input.device.type != "cpu"
            or not torch.is_grad_enabled()
            or torch.compiler.is_compiling()
        ):
            return F.prelu(input, self.weight)
        return _CpuPReLU.apply(input, self.weight.to(input.dtype))


class _CpuPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.prelu(x, weight)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (grad,) = grad_outputs
        if (library := _library(x, weight)) is not None:
            grad = grad.contiguous(memory_format=torch.channels_last)
            return library.prelu_backward(grad, x, weight.contiguous())
        over = torch.ops.aten.threshold_backward(grad, x, 0)  # where x > 0, else 0
        under = grad - over
        dims = [d for d in range(x.dim()) if d != 1]
        d_weight = (under * x).sum(dim=dims)
        shape = [1, -1] + [1] * (x.dim() - 2)
        return over.addcmul_(under, weight.view(shape)), d_weight


def _library(x: Tensor, weight: Tensor) -> Library | None:
    """The compiled loop, where it serves and can be had. Sizes decide: the same shape, the same bits."""
    serves = (
        x.dtype == torch.float32
        and x.dim() == 4
        and x.numel() >= COMPILED_FROM
        and len(weight) == x.shape[1]
        and x.is_contiguous(memory_format=torch.channels_last)
    )
    return build.library() if serves else None
