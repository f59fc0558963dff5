"""EdgeFace's own layers against restatements that go number by number."""

import math

import pytest
import torch
from torch import nn

from fusedface.models import create
from fusedface.models.edgeface import STAGES
from fusedface.models.edgenext import (
    AttentionEncoder,
    CrossCovarianceAttention,
    LowRankLinear,
    PositionalEncoding,
)


def redrawn(module: nn.Module) -> nn.Module:
    """In float64, no parameter at its special first value."""
    generator = torch.Generator().manual_seed(0)
    module.double()
    for parameter in module.parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = 0.5 * values
    return module


def normal(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("sizes", "gamma", "rank"), [((32, 128), 0.6, 19), ((304, 96), 0.5, 48), ((4, 12), 0.25, 2)]
)
def test_low_rank_linear_is_a_matrix_of_that_rank(sizes, gamma, rank):
    layer = redrawn(LowRankLinear(*sizes, gamma))
    inputs = torch.eye(sizes[0], dtype=torch.float64)
    with torch.no_grad():
        matrix = layer(inputs) - layer(torch.zeros_like(inputs))
    assert torch.linalg.matrix_rank(matrix) == rank
    assert sum(p.numel() for p in layer.parameters()) == rank * sum(sizes) + sizes[1]


def test_attention_by_hand():
    B, N, C, heads = 2, 5, 12, 3
    layer = redrawn(CrossCovarianceAttention(C, heads, gamma=0.6))
    x = normal((B, N, C))
    with torch.no_grad():
        found = layer(x)
        mixed = layer.qkv(x)
    d = C // heads
    expected = torch.empty(B, N, C, dtype=torch.float64)
    for b in range(B):
        for head in range(heads):
            # Channel j of a head: a vector over the pixels, among queries, then keys, then values.
            q, k, v = (
                [mixed[b, :, part * C + head * d + j].tolist() for j in range(d)]
                for part in range(3)
            )
            for i in range(d):
                scores = [
                    layer.temperature[head].item() * dot(q[i], k[j]) / (size(q[i]) * size(k[j]))
                    for j in range(d)
                ]
                weights = [math.exp(score) for score in scores]
                for n in range(N):
                    value = sum(w * v[j][n] for j, w in enumerate(weights)) / sum(weights)
                    expected[b, n, head * d + i] = value
    with torch.no_grad():
        torch.testing.assert_close(found, layer.project(expected), rtol=1e-10, atol=1e-12)


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def size(a: list[float]) -> float:
    return math.sqrt(dot(a, a))


def test_positional_encoding_by_hand():
    layer = PositionalEncoding(8, (3, 4)).double()
    waves = layer.waves[0]
    assert waves.shape == (64, 3, 4)
    for row in range(3):
        for column in range(4):
            for i in range(32):  # rows, then columns; sine at even places, cosine at odd ones
                wave = (math.sin, math.cos)[i % 2]
                frequency = 10_000 ** (-2 * (i // 2) / 32)
                for half, (place, length) in enumerate([(row, 3), (column, 4)]):
                    expected = wave(2 * math.pi * (place + 1) / length * frequency)
                    assert waves[32 * half + i, row, column].item() == pytest.approx(
                        expected, abs=1e-5
                    )


@pytest.mark.parametrize(("scales", "groups"), [(2, [6, 6]), (3, [4, 4, 4]), (4, [3, 3, 3, 3])])
def test_each_group_of_the_attention_block_sees_the_one_before(scales, groups):
    channels, grid = 12, (4, 3)
    block = redrawn(AttentionEncoder(channels, scales, 2, 0.6, PositionalEncoding(channels, grid)))
    x = normal((2, channels, *grid))
    with torch.no_grad():
        parts = list(x.split(groups, dim=1))
        for i, convolution in enumerate(block.depthwise):
            parts[i] = convolution(parts[i] + (parts[i - 1] if i else 0))
        mixed = torch.cat(parts, dim=1) + block.position()
        pixels = mixed.permute(0, 2, 3, 1).reshape(2, 12, channels)
        pixels = pixels + block.attention(pixels)
        expected = x + block.mlp(pixels).reshape(2, *grid, channels).permute(0, 3, 1, 2)
        torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-12)


def test_a_hundred_channels_in_three_groups():
    assert AttentionEncoder(100, 3, 4, 0.6, None).groups == [34, 34, 32]


@pytest.mark.parametrize("name", ["edgeface_xs", "edgeface_s"])
def test_stages_of_the_published_network(name):
    model = create(name)
    attention = [m for m in model.modules() if isinstance(m, AttentionEncoder)]
    assert len(attention) == sum(stage.scales > 0 for stage in STAGES) == 3
    (position,) = (m for m in model.modules() if isinstance(m, PositionalEncoding))
    assert position.waves.shape == (1, 64, 14, 14)
    assert not any("waves" in key for key in model.state_dict())
    assert model.grid == (3, 3)
    assert model.features(torch.zeros(1, 3, 112, 112)).shape[2:] == (1, 1)


@pytest.mark.parametrize("name", ["edgeface_xs", "edgeface_s"])
def test_blocks_begin_as_identity(name):
    model = create(name, input_size=(64, 64)).eval()
    with torch.no_grad():
        x = model.stem(normal((1, 3, 64, 64)).float())
        first = model.stages[0]
        torch.testing.assert_close(first(x), x, rtol=0, atol=1e-4)
        assert not torch.equal(first(x), x)


@pytest.mark.parametrize("input_size", [(16, 16), (112, 16), (16, 64)], ids=str)
def test_fewer_than_32_pixels_are_refused(input_size):
    with pytest.raises(ValueError, match="edgeface_xs must be at least 32 in both sides"):
        create("edgeface_xs", input_size=input_size)


@pytest.mark.parametrize("width", [0.001, 0.04, 0.3])
@pytest.mark.parametrize("name", ["edgeface_xs", "edgeface_s"])
def test_narrow_networks_can_be_split_into_their_scales(name, width):
    model = create(name, width=width, input_size=(32, 32), embedding_dim=4).eval()
    with torch.no_grad():
        assert model(normal((2, 3, 32, 32)).float()).shape == (2, 4)
