"""For tests of the joined layer: batch normalisation with an activation, images, and a comparison."""

import torch
from torch import nn

from fusedface.models.prelu import PReLU

ACTIVATIONS = {"none": lambda _: None, "prelu": PReLU, "relu": lambda _: nn.ReLU(inplace=True)}
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8}


def layers(channels, activation="prelu"):
    torch.manual_seed(channels)
    bn, act = nn.BatchNorm2d(channels), ACTIVATIONS[activation](channels)
    with torch.no_grad():
        bn.weight.uniform_(-0.5, 2)
        bn.bias.normal_()
        if activation == "prelu":
            act.weight.uniform_(-0.5, 1.5)
    return nn.Sequential(*[layer for layer in (bn, act) if layer is not None])


def images(*shape, dtype=torch.float32):
    """Channels of different means and variances, channels last."""
    x = torch.randn(shape) * torch.rand(1, shape[1], 1, 1) + 3 * torch.randn(1, shape[1], 1, 1)
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def close(found, expected, tolerance):
    """Up to a part of the largest number."""
    error = (found.detach().double() - expected.detach().double()).abs().max()
    assert error <= tolerance * expected.detach().abs().max(), float(error)
