"""PReLU with a backward that is fast on CPUs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusedface.kernels.chunks import build
from fusedface.kernels.chunks.library import Library, has_memory
from fusedface.models.loops.eager import is_traced

COMPILED_FROM = 2**17  # numbers; smaller tensors do not start the compiler


class PReLU(nn.PReLU):
    """nn.PReLU with the same results and a vectorised backward on CPUs: one pass if there is a C compiler.

    On CPUs torch's own backward took 42 % of MobileFaceNet's training step (docs/performance.md). GPUs,
    compiled and traced graphs, torch.func and inference use torch's operator.
    """

    computes_as = nn.PReLU

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """(B, C, H, W) to the same: x where x > 0, else weight x."""
        if (
            input.device.type != "cpu"
            or not torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or is_traced()
        ):
            return F.prelu(input, self.weight)
        return _CpuPReLU.apply(input, self.weight.to(input.dtype))


class _CpuPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.prelu(x, weight)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (grad,) = grad_outputs
        if torch.is_grad_enabled():  # someone differentiates the backward
            needed = [
                t for t, needs in zip((x, weight), ctx.needs_input_grad, strict=True) if needs
            ]
            out = F.prelu(x, weight)
            found = iter(torch.autograd.grad(out, needed, grad, create_graph=True))
            d_x, d_weight = (next(found) if needs else None for needs in ctx.needs_input_grad)
            return d_x, d_weight
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
    """The compiled loop, if it is available and pays at these sizes; no timing decides that."""
    serves = (
        x.dtype == torch.float32
        and x.dim() == 4
        and x.numel() >= COMPILED_FROM
        and len(weight) == x.shape[1]
        and has_memory(x, weight)
        and x.is_contiguous(memory_format=torch.channels_last)
    )
    return build.library() if serves else None
