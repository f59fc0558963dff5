"""The blocks of the mobile backbones."""

import copy

import pytest
import torch
from torch import nn

from fusedface.models.blocks import conv_bn


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


def test_an_appended_layer_is_called():
    """As by any nn.Sequential, of which a slice can be called too."""
    block, x = conv_bn(3, 4, activation="prelu").eval(), torch.randn(2, 3, 5, 5)
    expected = 2 * block(x)
    block.append(Double())
    torch.testing.assert_close(block(x), expected)
    torch.testing.assert_close(block[:1](x), block.conv(x))


@pytest.mark.parametrize("channels", [8, 16])
def test_gradients_of_a_strided_pointwise_convolution(channels):
    """With 8 channels torch's own backward ended the process, or gave a wrong gradient."""
    torch.manual_seed(0)
    block = conv_bn(channels, 8, stride=2).to(memory_format=torch.channels_last)
    exact = copy.deepcopy(block.conv).double()
    x = torch.randn(128, channels, 48, 48).to(memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn(128, 8, 24, 24)
    block.conv(x).backward(grad)
    wide = x.detach().double().requires_grad_()
    torch.nn.functional.conv2d(wide, exact.weight, stride=2).backward(grad.double())
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        block.conv.weight.grad.double(), exact.weight.grad, rtol=1e-4, atol=1e-2
    )
