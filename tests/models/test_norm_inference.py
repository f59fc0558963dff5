"""In inference, batch normalisation joined with its activation is torch's two layers, written into x."""

import copy

import pytest
import torch
from norm_layers import ACTIVATIONS, TOLERANCE, close, images, layers
from torch import nn

from fusedface.models.blocks import conv_bn
from fusedface.models.loops import eager, library
from fusedface.models.loops.norm import norm


def evaluated_layers(channels, activation="prelu"):
    """With running statistics as after training."""
    pair = layers(channels, activation).eval()
    pair[0].running_mean.normal_()
    pair[0].running_var.uniform_(0.1, 3)
    return pair


@torch.no_grad()
def inferred(pair, x):
    """By the loops, which write into x."""
    out = norm(pair[0], pair[1] if len(pair) > 1 else None, x, library.loops, is_own=True)
    assert out is x
    return out


@pytest.mark.parametrize(
    "shape", [(3, 5, 6, 7), (2, 33, 19, 11), (70, 8, 3, 1), (1, 16, 9, 9)], ids=str
)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_inference_is_torch_in_float64(dtype, activation, shape, loops):
    pair = evaluated_layers(shape[1], activation)
    exact = copy.deepcopy(pair).double()
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    x = images(*shape, dtype=dtype)
    expected = exact(x.double())
    close(inferred(pair, x), expected, TOLERANCE[dtype])
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


def test_inference_keeps_what_is_not_finite(loops):
    x = images(2, 6, 5, 5)
    x[1, 3, 2, 2], x[0, 1, 0, 0], x[0, 2, 1, 1] = torch.nan, torch.inf, -torch.inf
    pair = evaluated_layers(6)
    expected = pair(x)
    inferred(pair, x)
    assert torch.equal(x.isnan(), expected.isnan())
    assert torch.equal(x.isposinf(), expected.isposinf())
    assert torch.equal(x.isneginf(), expected.isneginf())


def test_a_block_infers_as_torch_does_and_leaves_its_input(loops, monkeypatch):
    joined, run = [], loops.norm_by_running
    monkeypatch.setattr(loops, "norm_by_running", lambda *given: joined.append(run(*given)))
    torch.manual_seed(0)
    block = nn.Sequential(conv_bn(3, 16, 3, padding=1, activation="prelu"), conv_bn(16, 8)).eval()
    x = images(3, 3, 12, 12)
    before = x.clone()
    with torch.no_grad():
        found = block(x)
        with eager.torchs_operators():
            close(found, block(x), TOLERANCE[torch.float32])
    assert len(joined) == 2
    assert torch.equal(x, before)


def test_what_a_hook_keeps_is_not_overwritten(loops):
    """A hook on the convolution sees its result, also after the block has run."""
    block, kept = conv_bn(3, 16, 3, padding=1, activation="prelu").eval(), []
    block.conv.register_forward_hook(lambda _layer, _inputs, out: kept.append(out))
    x = images(3, 3, 12, 12)
    with torch.no_grad():
        block(x)
        assert torch.equal(kept[0], nn.functional.conv2d(x, block.conv.weight, padding=1))


def test_inference_on_few_images_starts_no_compiler():
    pair, asked = evaluated_layers(32), []
    for count, starts in ((15, False), (16, True)):
        with torch.no_grad():
            norm(*pair, images(count, 32, 64, 64), lambda: asked.append(True), is_own=True)
        assert bool(asked) == starts
