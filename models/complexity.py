"""How large a network is: parameters, and multiply-adds for one image."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # and the place of the left operand
CONVOLUTION = "convolution"
ATTENTION = "_scaled_dot_product_"  # how the names of its kernels begin


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, frozen ones included; buffers (the running statistics) are not."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, input_size: tuple[int, int] = (112, 112)) -> int:
    """Multiply-adds of the convolutions and matrix products for one image, as papers count them.

    Linear layers are matrix products, and so are queries by keys and attention by values. BN (which folds
    into a convolution), activations, additions and biases count nothing.

    Args:
        module: takes (1, 3, H, W) of its parameters' dtype and device.
        input_size: (H, W).
    """
    were_training = [(layer, layer.training) for layer in module.modules()]
    parameter = next(module.parameters())
    image = torch.zeros(1, 3, *input_size, device=parameter.device, dtype=parameter.dtype)
    try:
        module.eval()  # in training BN would fail on one image, or update
        # In inference mode a layer reaches the counter whole, not as the products it is made of.
        with torch.inference_mode(False), torch.no_grad(), _Counter() as counter:
            module(image)
    finally:
        for layer, was_training in were_training:
            layer.training = was_training
    return counter.macs


class _Counter(TorchDispatchMode):
    """Counts while it is active. torch's FlopCounterMode imports the tracer and Triton: over a second."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be skipped, it would import the tracer. Nothing compiled runs here."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.macs += _macs(func.overloadpacket.__name__, args, out)
        return out


def _macs(operator: str, args: tuple[Any, ...], out: Any) -> int:
    """Multiply-adds of an operator of ATen."""
    if operator in PRODUCTS:
        left: Tensor = args[PRODUCTS[operator]]
        return out.numel() * left.shape[-1]
    if operator == CONVOLUTION:
        x, weight, *_ = args
        is_transposed = args[6]
        return (x if is_transposed else out).numel() * weight[0].numel()
    if operator.startswith(ATTENTION) and not operator.endswith("backward"):
        query, key, value = args[:3]  # (..., S, E), (..., T, E), (..., T, V)
        return query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return 0
