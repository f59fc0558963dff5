"""IResNet-18, the ResNet of the ArcFace codebases: https://arxiv.org/abs/1801.07698, section 3.2.1.

The blocks begin and end with BN, the first convolution keeps the resolution, and one linear layer
over the whole last feature map makes the embedding. As in insightface (recognition/arcface_torch):
convolutions start from N(0, 0.1), and the scale of the last BN stays 1. 24.03 M parameters at
112x112 and 512 dimensions, 12.85 M of them in that linear layer.
"""

from collections import OrderedDict

from torch import Tensor, nn

from fusedface.models.backbone import Backbone, scale_channels
from fusedface.models.blocks import conv_bn
from fusedface.models.loops.library import loops
from fusedface.models.loops.norm import norm

STAGES = (64, 128, 256, 512)  # channels; each stage halves the resolution in its first block
BLOCKS_PER_STAGE = 2
CONV_STD = 0.1


class IBasicBlock(nn.Module):
    """BN, conv 3x3, BN, PReLU, conv 3x3 with the stride, BN; plus the input or its projection.

    Args:
        in_channels, out_channels: of the input, of the output.
        stride: of the second convolution and the projection.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv1 = conv_bn(in_channels, out_channels, 3, padding=1, activation="prelu")
        self.conv2 = conv_bn(out_channels, out_channels, 3, stride=stride, padding=1)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity() if same_shape else conv_bn(in_channels, out_channels, stride=stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        return self.conv2(self.conv1(norm(self.bn, None, x, loops))) + self.shortcut(x)


class IResNet18(Backbone):
    """IResNet-18, a larger yardstick for the mobile backbones.

    Args:
        embedding_dim: D.
        input_size: (H, W), multiples of 16.
        width: multiplies every channel count, rounded to multiples of 8.

    Raises:
        ValueError: a size is outside its range.
    """

    name = "iresnet18"

    def __init__(
        self,
        embedding_dim: int = 512,
        input_size: tuple[int, int] = (112, 112),
        width: float = 1.0,
    ) -> None:
        super().__init__(embedding_dim, input_size, width)
        channels = scale_channels(STAGES[0], width)
        self.stem = conv_bn(3, channels, 3, padding=1, activation="prelu")
        blocks: list[nn.Module] = []
        for base in STAGES:
            out = scale_channels(base, width)
            for index in range(BLOCKS_PER_STAGE):
                blocks.append(IBasicBlock(channels, out, stride=2 if index == 0 else 1))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(channels)
        self.embedding = _embedding(channels * self.grid[0] * self.grid[1], embedding_dim)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=CONV_STD)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 512 width, H/16, W/16)."""
        return norm(self.bn, None, self.blocks(self.stem(images)), loops)


def _embedding(in_features: int, embedding_dim: int) -> nn.Sequential:
    bn = nn.BatchNorm1d(embedding_dim)
    bn.weight.requires_grad_(False)
    linear = nn.Linear(in_features, embedding_dim)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), linear=linear, bn=bn))
