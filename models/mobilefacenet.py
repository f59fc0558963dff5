"""MobileFaceNet, https://arxiv.org/abs/1804.07573, Table 1.

    image --conv 3x3 /2-- depthwise 3x3 -- bottlenecks -- conv 1x1 -- GDConv -- embedding 1x1
      H                  H/2                  H/16          H/16        1          1

GDConv and the embedding are linear: BN, no activation. 1,003,136 parameters and 220.97 M
multiply-adds at 112x112 and 128 dimensions.
"""

from collections import OrderedDict

from torch import Tensor, nn

from fusedface.models.backbone import Backbone, scale_channels
from fusedface.models.blocks import (
    ACTIVATIONS,
    Activation,
    Bottleneck,
    conv_bn,
    gdconv,
    init_fan_out,
)

STEM_CHANNELS = 64
FINAL_CHANNELS = 512
# Table 1 of the paper: expansion of the hidden channels, output channels, repeats, first stride.
BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class MobileFaceNet(Backbone):
    """MobileFaceNet as published; the last four options build its public ReLU6 variant.

    Args:
        embedding_dim: D.
        input_size: (H, W), multiples of 16; the GDConv kernel is H/16 x W/16.
        width: multiplies every channel count, rounded to multiples of 8.
        activation: "prelu" as published, "relu" or "relu6".
        stem_activation: of the layers between the first convolution and the bottlenecks; None is
            `activation`.
        stem_pointwise: a 1x1 convolution after the depthwise one of the stem.
        embedding_bias: a bias in the embedding convolution, which the BN after it makes redundant.

    Raises:
        ValueError: an option is outside its range.
    """

    name = "mobilefacenet"

    def __init__(
        self,
        embedding_dim: int = 128,
        input_size: tuple[int, int] = (112, 112),
        width: float = 1.0,
        *,
        activation: Activation = "prelu",
        stem_activation: Activation | None = None,
        stem_pointwise: bool = False,
        embedding_bias: bool = False,
    ) -> None:
        stem_activation = activation if stem_activation is None else stem_activation
        for option, value in (("activation", activation), ("stem_activation", stem_activation)):
            if value not in ACTIVATIONS:
                raise ValueError(f"{option} must be one of {ACTIVATIONS}, got {value!r}")
        super().__init__(
            embedding_dim,
            input_size,
            width,
            activation=activation,
            stem_activation=stem_activation,
            stem_pointwise=stem_pointwise,
            embedding_bias=embedding_bias,
        )
        stem = scale_channels(STEM_CHANNELS, width)
        final = scale_channels(FINAL_CHANNELS, width)
        self.stem = conv_bn(3, stem, 3, stride=2, padding=1, activation=activation)
        self.stem_depthwise = conv_bn(
            stem, stem, 3, padding=1, groups=stem, activation=stem_activation
        )
        self.stem_pointwise = (
            conv_bn(stem, stem, activation=stem_activation) if stem_pointwise else nn.Identity()
        )
        self.blocks, last = _bottlenecks(stem, width, activation)
        self.final = conv_bn(last, final, activation=activation)
        self.gdconv = gdconv(final, self.grid)
        self.embedding = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(final, embedding_dim, 1, bias=embedding_bias),
                bn=nn.BatchNorm2d(embedding_dim),
            )
        )
        init_fan_out(self)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 512 width, 1, 1)."""
        x = self.stem_pointwise(self.stem_depthwise(self.stem(images)))
        return self.gdconv(self.final(self.blocks(x)))


def _bottlenecks(channels: int, width: float, activation: Activation) -> tuple[nn.Sequential, int]:
    """The bottlenecks of Table 1 after `channels`, and how many channels they end with."""
    blocks: list[nn.Module] = []
    for expansion, base, repeats, first_stride in BOTTLENECKS:
        out = scale_channels(base, width)
        strides = [first_stride] + [1] * (repeats - 1)
        for stride in strides:
            blocks.append(Bottleneck(channels, expansion * channels, out, stride, activation))
            channels = out
    return nn.Sequential(*blocks), channels


class MobileFaceNetReLU(MobileFaceNet):
    """`MobileFaceNet` with ReLU in place of PReLU everywhere, and 512 dimensions by default.

    The paper's variant for phones (its section 3.3). PReLU is a little more accurate there. In the 8-bit
    kernels of phones ReLU is part of the convolution before it, and costs nothing. At 112x112 and 128
    dimensions: 995,584 parameters, which is MobileFaceNet without its 7,552 slopes, and 220.97 M
    multiply-adds.

    Args:
        embedding_dim: D.
        input_size: (H, W), multiples of 16.
        width: multiplies every channel count, rounded to multiples of 8.

    Raises:
        ValueError: a size is outside its range.
    """

    name = "mobilefacenet_relu"

    def __init__(
        self,
        embedding_dim: int = 512,
        input_size: tuple[int, int] = (112, 112),
        width: float = 1.0,
    ) -> None:
        super().__init__(embedding_dim, input_size, width, activation="relu")
        for fixed in ("activation", "stem_activation", "stem_pointwise", "embedding_bias"):
            del self.config[fixed]
