"""`mbf` and `mbf_large` of insightface (recognition/arcface_torch): MobileFaceNets, but not just wider.

Channel counts are two (four) times those of MobileFaceNet, but group and hidden counts are the same.
So the first 3x3 convolution of `mbf` has two channels per group. Its bottlenecks between the strided
ones have as many hidden channels as outer ones; those of `mbf_large` have half as many.

At 112x112 and 512 dimensions `mbf` has 2.060 M parameters and 437.5 M multiply-adds.
"""

from collections import OrderedDict
from typing import ClassVar

from torch import Tensor, nn

from fusedface.models.backbone import Backbone, scale_channels
from fusedface.models.blocks import Bottleneck, conv_bn, gdconv, init_fan_out

STEM_GROUPS = 64
FINAL_CHANNELS = 512


class MBF(Backbone):
    """The `mbf` backbone of insightface: see the module's docstring.

    Unlike insightface's, it takes any input size that is a multiple of 16; the kernel of the GDConv adapts.

    Args:
        embedding_dim: D.
        input_size: (H, W), multiples of 16.
        width: multiplies every channel and group count, rounded to multiples of 8; 1 is `mbf`.

    Raises:
        ValueError: a size is outside its range.
    """

    name = "mbf"
    scale: ClassVar[int] = 2
    """Outer channels, in 64s."""
    repeats: ClassVar[tuple[int, int, int, int]] = (1, 4, 6, 2)
    """Blocks after the first convolution and after each strided bottleneck."""

    def __init__(
        self,
        embedding_dim: int = 512,
        input_size: tuple[int, int] = (112, 112),
        width: float = 1.0,
    ) -> None:
        super().__init__(embedding_dim, input_size, width)
        groups, final = scale_channels(STEM_GROUPS, width), scale_channels(FINAL_CHANNELS, width)
        stem = self.scale * groups
        self.stem = conv_bn(3, stem, 3, stride=2, padding=1, activation="prelu")
        if self.repeats[0] == 1:
            self.stem_grouped = conv_bn(stem, stem, 3, padding=1, groups=groups, activation="prelu")
        else:
            stage = (128, 64 * self.scale, self.repeats[0], 1)
            self.stem_grouped, stem = _bottlenecks(stem, (stage,), width)
        self.blocks, last = _bottlenecks(stem, self._stages(), width)
        self.final = conv_bn(last, final, activation="prelu")
        self.gdconv = gdconv(final, self.grid)
        self.embedding = nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                linear=nn.Linear(final, embedding_dim, bias=False),
                bn=nn.BatchNorm1d(embedding_dim),
            )
        )
        init_fan_out(self)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 512 width, 1, 1)."""
        return self.gdconv(self.final(self.blocks(self.stem_grouped(self.stem(images)))))

    def _stages(self) -> tuple[tuple[int, int, int, int], ...]:
        """Hidden channels, output channels, repeats, stride of the first."""
        half, full = 64 * self.scale, 128 * self.scale
        _, first, second, third = self.repeats
        return (
            (128, half, 1, 2),
            (128, half, first, 1),
            (256, full, 1, 2),
            (256, full, second, 1),
            (512, full, 1, 2),
            (256, full, third, 1),
        )


class MBFLarge(MBF):
    """The `mbf_large` backbone: twice as wide as `mbf` and twice as deep."""

    name = "mbf_large"
    scale = 4
    repeats = (2, 8, 12, 4)


def _bottlenecks(
    channels: int, stages: tuple[tuple[int, int, int, int], ...], width: float
) -> tuple[nn.Sequential, int]:
    """The bottlenecks after `channels`, and how many channels they end with."""
    blocks: list[nn.Module] = []
    for base_hidden, base_out, repeats, first_stride in stages:
        hidden, out = scale_channels(base_hidden, width), scale_channels(base_out, width)
        strides = [first_stride] + [1] * (repeats - 1)
        for stride in strides:
            blocks.append(Bottleneck(channels, hidden, out, stride, "prelu"))
            channels = out
    return nn.Sequential(*blocks), channels
