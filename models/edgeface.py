"""EdgeFace, https://arxiv.org/abs/2307.01838: EdgeNeXt with low-rank linear layers.

    image --patches of 4x4-- 4 stages, each but the first halves the resolution -- mean -- linear

EdgeNeXt (https://arxiv.org/abs/2206.10589) ends its last three stages with attention between channels,
whose cost grows with the number of pixels, not with its square. Sizes, order and first weights are those
of the authors' code (otroshi/edgeface, on timm's edgenext). Its last linear layer is of low rank too, as
the published parameter counts have it. There is no batch normalisation.
"""

from collections import OrderedDict
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from fusedface.models.backbone import Backbone, scale_channels
from fusedface.models.edgenext import (
    EPS,
    AttentionEncoder,
    ChannelNorm,
    ConvEncoder,
    LowRankLinear,
    PositionalEncoding,
)

PATCH = 4
MIN_SIDE = 32  # the patches and three halvings
MIN_CHANNELS = 8  # fewer cannot be split into the scales of a stage
CONV_STD = 0.02


class Stage(NamedTuple):
    """A stage, in the form that all sizes of EdgeNeXt share."""

    depth: int
    kernel: int
    scales: int  # of the attention block, which is the last; 0: there is none
    encodes_position: bool


STAGES = (
    Stage(3, 3, 0, False),
    Stage(3, 5, 2, True),
    Stage(9, 7, 3, False),
    Stage(3, 9, 4, False),
)


class EdgeFaceXS(Backbone):
    """EdgeFace-XS, gamma 0.6.

    Args:
        embedding_dim: D.
        input_size: (H, W), multiples of 16 from 32.
        width: multiplies the channel counts, rounded to multiples of the number of heads.

    Raises:
        ValueError: a size is outside its range.
    """

    name = "edgeface_xs"
    channels: ClassVar[tuple[int, int, int, int]] = (32, 64, 100, 192)
    heads: ClassVar[int] = 4
    gamma: ClassVar[float] = 0.6

    def __init__(
        self,
        embedding_dim: int = 512,
        input_size: tuple[int, int] = (112, 112),
        width: float = 1.0,
    ) -> None:
        super().__init__(embedding_dim, input_size, width)
        if min(input_size) < MIN_SIDE:
            raise ValueError(
                f"input_size of {self.name} must be at least {MIN_SIDE} in both sides, got {input_size!r}"
            )
        H, W = (side // PATCH for side in self.input_size)
        channels = [
            max(MIN_CHANNELS, scale_channels(base, width, self.heads)) for base in self.channels
        ]
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(3, channels[0], PATCH, stride=PATCH), norm=ChannelNorm(channels[0])
            )
        )
        stages: list[nn.Module] = []
        for index, (stage, C) in enumerate(zip(STAGES, channels, strict=True)):
            if index > 0:
                stages.append(_downsample(channels[index - 1], C))
                H, W = H // 2, W // 2
            stages.append(_encoders(stage, C, self.heads, self.gamma, (H, W)))
        self.stages = nn.Sequential(*stages)
        self.embedding = nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                norm=nn.LayerNorm(channels[-1], eps=EPS),
                linear=LowRankLinear(channels[-1], embedding_dim, self.gamma),
            )
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=CONV_STD, a=-2 * CONV_STD, b=2 * CONV_STD)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the last feature map; halves are rounded down."""
        H, W = self.input_size
        return H // MIN_SIDE, W // MIN_SIDE

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, C, 1, 1)."""
        return self.stages(self.stem(images)).mean(dim=(2, 3), keepdim=True)


class EdgeFaceS(EdgeFaceXS):
    """EdgeFace-S, gamma 0.5."""

    name = "edgeface_s"
    channels = (48, 96, 160, 304)
    heads = 8
    gamma = 0.5


def _downsample(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 2, stride=2)
    return nn.Sequential(OrderedDict(norm=ChannelNorm(in_channels), conv=conv))


def _encoders(
    stage: Stage, channels: int, heads: int, gamma: float, grid: tuple[int, int]
) -> nn.Sequential:
    """The blocks of a stage; its last is the attention block, where it has one."""
    convolutions = stage.depth - (stage.scales > 0)
    blocks: list[nn.Module] = [
        ConvEncoder(channels, stage.kernel, gamma) for _ in range(convolutions)
    ]
    if stage.scales:
        position = PositionalEncoding(channels, grid) if stage.encodes_position else None
        blocks.append(AttentionEncoder(channels, stage.scales, heads, gamma, position))
    return nn.Sequential(*blocks)
