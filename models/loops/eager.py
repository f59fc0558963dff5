"""Which calls the loops may serve: plain eager ones on a CPU, which no one traces or watches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as modules

Layer = TypeVar("Layer", bound=nn.Module)
COMPILED_FROM = 2**17  # numbers of a tensor; smaller ones do not start the compiler
INFERENCE_FROM = (
    16  # images, of which a verification embeds as many at a time; fewer do not start it
)
_switch = {"on": True}


@contextmanager
def torchs_operators() -> Iterator[None]:
    """Within it the loops serve nothing, for a comparison in one process."""
    before = _switch["on"]
    _switch["on"] = False
    try:
        yield
    finally:
        _switch["on"] = before


def serves(x: Tensor) -> bool:
    """Whether x is what the loops of training take: `_is_taken`, with gradients on."""
    return _is_taken(x) and torch.is_grad_enabled()


def serves_inference(x: Tensor) -> bool:
    """Whether x is what the loops of inference take: `_is_taken`, of many images, with gradients off."""
    return _is_taken(x) and not torch.is_grad_enabled() and len(x) >= INFERENCE_FROM


def _is_taken(x: Tensor) -> bool:
    """Whether x is large, channels last, float32 or bfloat16."""
    return (
        not torch.compiler.is_compiling()  # first: a compiler that traces this sees nothing else
        and type(x) in (Tensor, nn.Parameter)  # not a symbol, a fake or a subclass
        and _switch["on"]
        and not is_traced()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.dim() == 4
        and x.numel() >= COMPILED_FROM
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def is_plain(layer: nn.Module, kind: type[Layer]) -> TypeGuard[Layer]:
    """Whether the layer computes as that kind does, and no hook wants to see what goes in or out."""
    own = type(layer)
    return vars(own).get("computes_as", own) is kind and not (
        "forward" in vars(layer)  # someone put another one in its place
        or layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or modules._has_any_global_hook()
    )


def is_parameter(weight: Tensor | None) -> bool:
    """Whether a layer's weight is float32 on a CPU, as all are unless someone changed them."""
    return (
        weight is not None
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and type(weight) in (Tensor, nn.Parameter)
    )


def is_traced() -> bool:
    """Whether torch.func, forward-mode derivatives, a dispatch mode or a tracer sees the operators."""
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    )
