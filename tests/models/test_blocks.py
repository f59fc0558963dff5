"""The blocks of the mobile backbones."""

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
