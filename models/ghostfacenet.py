"""GhostFaceNetV1, https://doi.org/10.1109/ACCESS.2023.3266068: GhostNet with the head of MobileFaceNet.

    image --conv 3x3 /1 or /2-- 16 ghost bottlenecks, /16 -- conv 1x1 -- GDConv -- embedding 1x1

A ghost module (https://arxiv.org/abs/1911.11907) makes half of its channels by a 1x1 convolution and the
other half from those by a depthwise 3x3. As in the authors' code (HamadYA/GhostFaceNets), PReLU takes
the place of ReLU, and pooling is left out. Unlike there, padding with stride 2 has no shift by half a
pixel.
"""

from collections import OrderedDict
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from fusedface.models.backbone import TOTAL_STRIDE, Backbone, scale_channels
from fusedface.models.blocks import Activation, conv_bn, gdconv, init_fan_out
from fusedface.models.prelu import PReLU

DIVISOR = 4  # of every channel count
STEM_CHANNELS = 16
FINAL_CHANNELS = 512


class Row(NamedTuple):
    """A ghost bottleneck at width 1."""

    kernel: int
    hidden: int
    out: int
    squeezes: bool
    stride: int


# Table 1 of the GhostNet paper with 512 hidden channels in the last row, as in the authors' code.
BOTTLENECKS = (
    Row(3, 16, 16, False, 1),
    Row(3, 48, 24, False, 2),
    Row(3, 72, 24, False, 1),
    Row(5, 72, 40, True, 2),
    Row(5, 120, 40, True, 1),
    Row(3, 240, 80, False, 2),
    Row(3, 200, 80, False, 1),
    Row(3, 184, 80, False, 1),
    Row(3, 184, 80, False, 1),
    Row(3, 480, 112, True, 1),
    Row(3, 672, 112, True, 1),
    Row(5, 672, 160, True, 2),
    Row(5, 960, 160, False, 1),
    Row(5, 960, 160, True, 1),
    Row(5, 960, 160, False, 1),
    Row(5, 512, 160, True, 1),
)


class GhostModule(nn.Module):
    """Half of the output channels by a 1x1 convolution, the others by a depthwise 3x3 of those."""

    def __init__(
        self, in_channels: int, out_channels: int, activation: Activation | None = None
    ) -> None:
        super().__init__()
        half = out_channels // 2
        self.primary = conv_bn(in_channels, half, activation=activation)
        self.cheap = conv_bn(half, half, 3, padding=1, groups=half, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        primary = self.primary(x)
        return torch.cat((primary, self.cheap(primary)), dim=1)


class SqueezeExcite(nn.Module):
    """Squeeze and excitation: two layers on the channel means, the hidden one a quarter as wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = scale_channels(channels, 0.25, DIVISOR)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = PReLU(squeezed)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to the same."""
        means = x.mean(dim=(2, 3), keepdim=True)
        # Keras' hard sigmoid, whose slope is 1/5; torch's has 1/6.
        weights = (0.2 * self.expand(self.act(self.reduce(means))) + 0.5).clamp(0, 1)
        return x * weights


class GhostBottleneck(nn.Module):
    """Ghost module, depthwise where it is strided, squeeze and excite, linear ghost module; plus input."""

    def __init__(self, in_channels: int, row: Row) -> None:
        super().__init__()
        kernel, hidden, out, squeezes, stride = row
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            expand=GhostModule(in_channels, hidden, "prelu")
        )
        if stride > 1:
            layers["depthwise"] = _depthwise(hidden, kernel, stride)
        if squeezes:
            layers["squeeze"] = SqueezeExcite(hidden)
        layers["project"] = GhostModule(hidden, out)
        self.layers = nn.Sequential(layers)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out:
            self.shortcut = nn.Sequential(
                OrderedDict(
                    depthwise=_depthwise(in_channels, kernel, stride),
                    pointwise=conv_bn(in_channels, out),
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out, H / stride, W / stride), rounded up."""
        return self.layers(x) + self.shortcut(x)


class GhostFaceNetV1S1(Backbone):
    """GhostFaceNetV1-1.3-1: the first convolution keeps the resolution.

    Args:
        embedding_dim: D.
        input_size: (H, W), multiples of 16.
        width: multiplies GhostNet's channel counts, rounded to multiples of 4; 1.3 as published.

    Raises:
        ValueError: a size is outside its range.
    """

    name = "ghostfacenet_v1_s1"
    stem_stride: ClassVar[int] = 1

    def __init__(
        self,
        embedding_dim: int = 512,
        input_size: tuple[int, int] = (112, 112),
        width: float = 1.3,
    ) -> None:
        super().__init__(embedding_dim, input_size, width)
        channels = scale_channels(STEM_CHANNELS, width, DIVISOR)
        self.stem = conv_bn(3, channels, 3, stride=self.stem_stride, padding=1, activation="prelu")
        blocks: list[nn.Module] = []
        for row in BOTTLENECKS:
            hidden, out = (scale_channels(c, width, DIVISOR) for c in (row.hidden, row.out))
            blocks.append(GhostBottleneck(channels, row._replace(hidden=hidden, out=out)))
            channels = out
        self.blocks = nn.Sequential(*blocks)
        final = scale_channels(FINAL_CHANNELS, width, DIVISOR)
        self.final = conv_bn(channels, final, activation="prelu")
        self.gdconv = gdconv(final, self.grid)
        self.embedding = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(final, embedding_dim, 1, bias=False),
                bn=nn.BatchNorm2d(embedding_dim),
            )
        )
        init_fan_out(self)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the last feature map; a side that cannot be halved is rounded up."""
        H, W = self.input_size
        stride = TOTAL_STRIDE * self.stem_stride
        return -(-H // stride), -(-W // stride)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 512 width, 1, 1)."""
        return self.gdconv(self.final(self.blocks(self.stem(images))))


class GhostFaceNetV1S2(GhostFaceNetV1S1):
    """GhostFaceNetV1-1.3-2: the first convolution halves the resolution; a quarter of the work."""

    name = "ghostfacenet_v1_s2"
    stem_stride = 2


def _depthwise(channels: int, kernel: int, stride: int) -> nn.Sequential:
    return conv_bn(channels, channels, kernel, stride=stride, padding=kernel // 2, groups=channels)
