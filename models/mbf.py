"""`mbf` of insightface (recognition/arcface_torch): a MobileFaceNet twice as wide, and not just that.

Its channel counts are doubled, its group counts are not. So the first 3x3 convolution has two
channels a group, and the bottlenecks between the strided ones have as many hidden channels as
outer ones. 2.060 M parameters and 437.5 M multiply-adds at 112x112 and 512 dimensions.
"""

from collections import OrderedDict

from torch import Tensor, nn

from fusedface.models.backbone import Backbone, scale_channels
from fusedface.models.blocks import Bottleneck, conv_bn, gdconv, init_fan_out

STEM_GROUPS = 64
FINAL_CHANNELS = 512
# Hidden channels, output channels, repeats, stride of the first.
BOTTLENECKS = (
    (128, 128, 1, 2),
    (128, 128, 4, 1),
    (256, 256, 1, 2),
    (256, 256, 6, 1),
    (512, 256, 1, 2),
    (256, 256, 2, 1),
)


class MBF(Backbone):
    """The `mbf` backbone: see the module's text.

    Unlike insightface's it takes any input size that is a multiple of 16; the GDConv follows.

    Args:
        embedding_dim: D.
        input_size: (H, W), multiples of 16.
        width: multiplies every channel and group count, rounded to multiples of 8; 1 is `mbf`.

    Raises:
        ValueError: a size is outside its range.
    """

    name = "mbf"

    def __init__(
        self,
        embedding_dim: int = 512,
        input_size: tuple[int, int] = (112, 112),
        width: float = 1.0,
    ) -> None:
        super().__init__(embedding_dim, input_size, width)
        groups = scale_channels(STEM_GROUPS, width)
        stem, final = 2 * groups, scale_channels(FINAL_CHANNELS, width)
        self.stem = conv_bn(3, stem, 3, stride=2, padding=1, activation="prelu")
        self.stem_grouped = conv_bn(stem, stem, 3, padding=1, groups=groups, activation="prelu")
        self.blocks, last = _bottlenecks(stem, width)
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


def _bottlenecks(channels: int, width: float) -> tuple[nn.Sequential, int]:
    """The bottlenecks after `channels`, and how many channels they end with."""
    blocks: list[nn.Module] = []
    for base_hidden, base_out, repeats, first_stride in BOTTLENECKS:
        hidden, out = scale_channels(base_hidden, width), scale_channels(base_out, width)
        strides = [first_stride] + [1] * (repeats - 1)
        for stride in strides:
            blocks.append(Bottleneck(channels, hidden, out, stride, "prelu"))
            channels = out
    return nn.Sequential(*blocks), channels
