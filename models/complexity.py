"""How large a network is: parameters, and multiply-adds for one image."""

import math

import torch
from torch import Tensor, nn


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, frozen ones included; buffers (the running statistics) are not."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, input_size: tuple[int, int] = (112, 112)) -> int:
    """Multiply-adds of the convolutions and linear layers for one image, as papers count them.

    BN (which folds into a convolution), activations, additions and biases count nothing.

    Args:
        module: takes (1, 3, H, W) of its parameters' dtype and device.
        input_size: (H, W).
    """
    macs = 0

    def add(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(layer, nn.Conv2d):
            per_output = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
        else:
            assert isinstance(layer, nn.Linear)
            per_output = layer.in_features
        macs += output.numel() * per_output

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    was_training = module.training
    parameter = next(module.parameters())
    try:
        module.eval()  # BN could not normalise a single image, and must not learn from this one
        with torch.no_grad():
            module(torch.zeros(1, 3, *input_size, device=parameter.device, dtype=parameter.dtype))
    finally:
        module.train(was_training)
        for hook in hooks:
            hook.remove()
    return macs
