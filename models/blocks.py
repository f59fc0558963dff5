"""The two building blocks of the mobile backbones: a convolution with BN, and the bottleneck."""

from collections import OrderedDict
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from fusedface.models.loops.depthwise import convolve
from fusedface.models.loops.eager import is_plain
from fusedface.models.loops.library import loops
from fusedface.models.loops.norm import norm
from fusedface.models.prelu import PReLU

Activation = Literal["prelu", "relu", "relu6"]
ACTIVATIONS = get_args(Activation)
NARROW = 16  # channels in a vector of AVX-512


class NarrowPointwise(nn.Conv2d):
    """A strided 1x1 convolution of fewer than `NARROW` channels: takes its pixels first, then has stride 1.

    On a CPU, torch's own backward of such a convolution of a channels-last tensor writes past its memory
    (oneDNN issue 6035, seen with torch 2.13): the process dies, or a gradient is wrong.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as Conv2d has it
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride), rounded up."""
        down, along = self.stride
        return F.conv2d(input[:, :, ::down, ::along], self.weight, self.bias)


class ConvBN(nn.Sequential):
    """Convolution, BN and, if there is a third entry, an activation.

    On a CPU, BN and activation are one operator, and depthwise convolutions have a backward of their own
    (`models/loops`).
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as Sequential has it
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        if len(self) not in (2, 3):  # someone appended a layer, or took a slice
            return super().forward(input)
        conv, bn, *act = self
        is_own = is_plain(conv, nn.Conv2d)  # no hook keeps what it returns, which is new
        return norm(bn, act[0] if act else None, convolve(conv, input, loops), loops, is_own=is_own)


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int] = 1,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    activation: Activation | None = None,
) -> ConvBN:
    """Convolution without bias, BN and, if the layer is not linear, an activation.

    Returns:
        A Sequential with the entries `conv`, `bn` and, with an activation, `act`.
    """
    is_pointwise = kernel == 1 and padding == 0 and groups == 1
    kind = NarrowPointwise if is_pointwise and stride > 1 and in_channels < NARROW else nn.Conv2d
    conv = kind(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels))
    if activation == "prelu":
        layers["act"] = PReLU(out_channels)
    elif activation == "relu":
        layers["act"] = nn.ReLU(inplace=True)
    elif activation == "relu6":
        layers["act"] = nn.ReLU6(inplace=True)
    return ConvBN(layers)


def gdconv(channels: int, grid: tuple[int, int]) -> ConvBN:
    """Global depthwise convolution: one linear filter per channel over the whole grid, to (B, C, 1, 1)."""
    return conv_bn(channels, channels, grid, groups=channels)


class Bottleneck(nn.Module):
    """Inverted residual of MobileNetV2: expand 1x1, depthwise 3x3, project 1x1 without activation.

    The input is added to the output where both have the same shape.

    Args:
        in_channels, hidden_channels, out_channels: of the input, inside the block, of the output.
        stride: of the depthwise convolution.
        activation: after the first two convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        stride: int,
        activation: Activation,
    ) -> None:
        super().__init__()
        hidden = hidden_channels
        self.expand = conv_bn(in_channels, hidden, activation=activation)
        self.depthwise = conv_bn(
            hidden, hidden, 3, stride=stride, padding=1, groups=hidden, activation=activation
        )
        self.project = conv_bn(hidden, out_channels)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.has_shortcut else out


def init_fan_out(module: nn.Module) -> None:
    """Normal weights of variance 2 / fan-out, zero biases, as the public MobileFaceNet recipes do.

    BN (1, 0) and PReLU (0.25) already start as those recipes have them.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
