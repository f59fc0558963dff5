"""Depthwise convolutions whose backward is a loop over the images, in eager training on a CPU."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusedface.models.loops.eager import is_parameter, is_plain, serves
from fusedface.models.loops.operands import MAX_CHANNELS

if TYPE_CHECKING:
    from fusedface.models.loops.library import Loops


def convolve(conv: nn.Module, x: Tensor, loops: Callable[[], "Loops | None"]) -> Tensor:
    """`conv(x)`; the backward of a depthwise convolution is a loop where the loops serve.

    torch's own backward of strided ones is many times slower in bfloat16 (docs/performance.md).

    Args:
        conv: nn.Conv2d; whatever else stands in its place is called.
        x: (B, C, H, W).
        loops: gives the library, and is called only where the loops serve.
    """
    if serves(x) and _is_known(conv, x) and (library := loops()) is not None:
        assert isinstance(conv, nn.Conv2d)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        return _Depthwise.apply(x, conv.weight, conv.stride[0], conv.padding[0], library)
    return conv(x)


def _is_known(conv: nn.Module, x: Tensor) -> bool:
    """Whether it is one that pays: 3x3 with stride 2 and padding 1, or one filter of the image's size."""
    if not is_plain(conv, nn.Conv2d) or not conv.groups == conv.in_channels == conv.out_channels:
        return False
    is_strided = conv.kernel_size == (3, 3) and conv.stride == (2, 2)
    is_global = conv.kernel_size == tuple(x.shape[2:])
    return (
        ((is_strided and conv.padding == (1, 1)) or (is_global and conv.padding == (0, 0)))
        and conv.padding_mode == "zeros"
        and conv.dilation == (1, 1)
        and conv.bias is None
        and x.requires_grad
        and is_parameter(conv.weight)
        and 1 < conv.groups == x.shape[1] <= MAX_CHANNELS
        and _casts_to_half(x)
    )


def _casts_to_half(x: Tensor) -> bool:
    """Whether the convolution is in bfloat16 under autocast, or in float32 without."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return x.dtype == torch.float32


def _convolution(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    return F.conv2d(x, weight.to(x.dtype), None, stride, padding, groups=len(weight))


class _Depthwise(torch.autograd.Function):
    """(x, weight) to the convolution by torch's operator."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, library: "Loops"
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.of, ctx.library = (stride, padding), library
        return _convolution(x, weight, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        stride, padding = ctx.of
        if torch.is_grad_enabled():  # someone differentiates the backward
            needed = [
                t for t, needs in zip((x, weight), ctx.needs_input_grad, strict=False) if needs
            ]
            out = _convolution(x, weight, stride, padding)
            found = iter(torch.autograd.grad(out, needed, grad, create_graph=True))
            return (
                *(next(found) if needs else None for needs in ctx.needs_input_grad[:2]),
                None,
                None,
                None,
            )
        grad = grad.contiguous(memory_format=torch.channels_last)
        if padding:
            dx, d_weight = ctx.library.depthwise_backward(grad, x, weight)
        else:
            dx, d_weight = ctx.library.global_depthwise_backward(grad, x, weight)
        return dx, d_weight, None, None, None
