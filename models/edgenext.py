"""The blocks of EdgeNeXt (https://arxiv.org/abs/2206.10589) with EdgeFace's linear layers of low rank."""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXPANSION = 4
EPS = 1e-6  # of the layer normalisations
INITIAL_SCALE = 1e-6  # of what a block adds to its input
FREQUENCIES, TEMPERATURE = 16, 10_000  # of the positional encoding


class LowRankLinear(nn.Sequential):
    """LoRaLin: a linear layer as the product of two.

    Args:
        in_features, out_features: of the product.
        gamma: the rank is this fraction of the smaller of both, rounded down, and at least 2.
    """

    def __init__(self, in_features: int, out_features: int, gamma: float) -> None:
        rank = max(2, int(min(in_features, out_features) * gamma))
        super().__init__(nn.Linear(in_features, rank, bias=False), nn.Linear(rank, out_features))


class Scale(nn.Module):
    """A learned factor for each channel of (..., C), almost 0 at first: a block starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), INITIAL_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to the same."""
        return self.weight * x


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as LayerNorm has it
        """(B, C, H, W) to the same."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvEncoder(nn.Module):
    """Depthwise convolution, then two linear layers for each pixel; plus input."""

    def __init__(self, channels: int, kernel: int, gamma: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.mlp = _mlp(channels, gamma)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        pixels = self.depthwise(x).permute(0, 2, 3, 1)
        return x + self.mlp(pixels).permute(0, 3, 1, 2)


class CrossCovarianceAttention(nn.Module):
    """XCA (https://arxiv.org/abs/2106.09681): attention among the channels of a head, over all pixels.

    Queries and keys are normalised to length 1 over the pixels. A learned temperature for each head
    multiplies their products.
    """

    def __init__(self, channels: int, heads: int, gamma: float) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads))
        self.qkv = LowRankLinear(channels, 3 * channels, gamma)
        self.project = LowRankLinear(channels, channels, gamma)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) of N pixels to the same."""
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads)
        queries, keys, values = qkv.permute(2, 0, 3, 4, 1)  # each (B, heads, C / heads, N)
        cosines = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(-2, -1)
        attention = (cosines * self.temperature[:, None, None]).softmax(dim=-1)
        return self.project((attention @ values).permute(0, 3, 1, 2).reshape(B, N, C))


class PositionalEncoding(nn.Module):
    """Sines and cosines of each pixel's row and column, mixed to C channels by a 1x1 convolution."""

    waves: Tensor

    def __init__(self, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("waves", _waves(grid), persistent=False)
        self.project = nn.Conv2d(4 * FREQUENCIES, channels, 1)

    def forward(self) -> Tensor:
        """(1, C, H, W)."""
        return self.project(self.waves)


class AttentionEncoder(nn.Module):
    """The STDA encoder: groups of channels, attention among all channels, two linear layers; plus input.

    Every group except the last gets the previous group's result added, then a depthwise convolution.
    """

    def __init__(
        self,
        channels: int,
        scales: int,
        heads: int,
        gamma: float,
        position: PositionalEncoding | None,
    ) -> None:
        super().__init__()
        group = -(-channels // scales)
        self.groups = [group] * (scales - 1) + [channels - group * (scales - 1)]
        self.depthwise = nn.ModuleList(
            nn.Conv2d(group, group, 3, padding=1, groups=group) for _ in range(scales - 1)
        )
        self.position = position
        self.attention = nn.Sequential(
            OrderedDict(
                norm=nn.LayerNorm(channels, eps=EPS),
                xca=CrossCovarianceAttention(channels, heads, gamma),
                scale=Scale(channels),
            )
        )
        self.mlp = _mlp(channels, gamma)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        *first, last = x.split(self.groups, dim=1)
        groups: list[Tensor] = []
        for convolution, group in zip(self.depthwise, first, strict=True):
            groups.append(convolution(group + groups[-1] if groups else group))
        mixed = torch.cat([*groups, last], dim=1)
        if self.position is not None:
            mixed = mixed + self.position()
        pixels = mixed.flatten(2).transpose(1, 2)
        pixels = pixels + self.attention(pixels)
        return x + self.mlp(pixels).transpose(1, 2).unflatten(2, x.shape[2:])


def _mlp(channels: int, gamma: float) -> nn.Sequential:
    """Normalise, widen, narrow, scale: (..., C) to the same."""
    hidden = EXPANSION * channels
    return nn.Sequential(
        OrderedDict(
            norm=nn.LayerNorm(channels, eps=EPS),
            expand=LowRankLinear(channels, hidden, gamma),
            act=nn.GELU(),
            project=LowRankLinear(hidden, channels, gamma),
            scale=Scale(channels),
        )
    )


def _waves(grid: tuple[int, int]) -> Tensor:
    """(1, 4 FREQUENCIES, H, W): for rows, then columns, sine and cosine of each frequency in turn."""
    frequencies = TEMPERATURE ** -(torch.arange(FREQUENCIES, dtype=torch.float64) / FREQUENCIES)

    def along(length: int) -> Tensor:
        positions = 2 * math.pi * torch.arange(1, length + 1) / (length + EPS)
        angles = positions[:, None] * frequencies
        return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1).T

    H, W = grid
    rows, columns = along(H)[:, :, None], along(W)[:, None, :]
    waves = torch.cat((rows.expand(-1, H, W), columns.expand(-1, H, W)))
    return waves[None].to(torch.get_default_dtype())
