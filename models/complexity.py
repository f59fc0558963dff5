"""How large a network is: parameters, and multiply-adds for one image."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


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
    was_training = module.training
    parameter = next(module.parameters())
    image = torch.zeros(1, 3, *input_size, device=parameter.device, dtype=parameter.dtype)
    try:
        module.eval()  # in training BN would fail on one image, or update
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(image)
    finally:
        module.train(was_training)
    return counter.get_total_flops() // 2  # torch counts a multiplication and an addition
