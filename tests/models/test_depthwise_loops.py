"""The loops of depthwise convolutions are torch's backward, or step aside for it."""

import copy

import pytest
import torch
from torch import nn

from fusedface.models.loops import eager, library
from fusedface.models.loops.depthwise import convolve

SHAPES = [  # of the images; kernel, stride
    ((3, 37, 9, 7), 3, 2),
    ((2, 32, 8, 6), 3, 2),
    ((1, 8, 1, 1), 3, 2),
    ((70, 5, 3, 4), 3, 2),
    ((4, 24, 7, 6), (7, 6), 1),
    ((1, 9, 2, 3), (2, 3), 1),
]


def layer(channels, kernel, stride, **options):
    torch.manual_seed(channels)
    options = {"padding": 1 if kernel == 3 else 0, "groups": channels, "bias": False} | options
    return nn.Conv2d(channels, channels, kernel, stride, **options)


def images(*shape, dtype=torch.float32):
    return (
        torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    )


def by_loop(conv, x):
    out = convolve(conv, x, library.loops)
    assert "Depthwise" in out.grad_fn.name()
    return out


def close(found, expected, tolerance):
    """Up to a part of the largest number."""
    error = (found.double() - expected.double()).abs().max()
    assert error <= tolerance * expected.abs().max(), float(error)


@pytest.mark.parametrize(("shape", "kernel", "stride"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_those_of_torch_in_float64(dtype, shape, kernel, stride, loops):
    conv = layer(shape[1], kernel, stride)
    exact = copy.deepcopy(conv).double()
    x = images(*shape, dtype=dtype)
    y = x.detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out, same = by_loop(conv, x), conv(x)
    assert torch.equal(out, same)  # the forward is torch's
    grad = torch.randn(out.shape, dtype=dtype)  # in another order in memory
    out.backward(grad)
    exact(y).backward(grad.double())
    assert x.grad.dtype == dtype
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    half = dtype == torch.bfloat16
    close(x.grad, y.grad, 2**-7 if half else 1e-6)  # the loop takes weights that are not rounded
    assert conv.weight.grad.dtype == torch.float32
    close(conv.weight.grad, exact.weight.grad, 1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), ((8, 8), 1)], ids=str)
def test_the_same_bits_on_any_number_of_threads(kernel, stride, loops):
    x, results, threads = images(5, 24, 8, 8), [], torch.get_num_threads()
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            conv, x.grad = layer(24, kernel, stride), None
            by_loop(conv, x).square().sum().backward()
            results.append((x.grad, conv.weight.grad))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, results[0], results[1]))
    assert all(map(torch.equal, results[0], results[2]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), ((6, 6), 1)], ids=str)
def test_what_is_not_finite_comes_out_as_from_torch(kernel, stride, bad, loops):
    """Of a number of x: in the weight's gradient. Of a gradient: in both."""
    found = []
    for call in (by_loop, nn.Conv2d.__call__):
        for place in ("x", "grad"):
            conv, x = layer(6, kernel, stride), images(2, 6, 6, 6)
            with torch.no_grad():
                x[1, 3, 2, 2] = bad if place == "x" else 1.0
            out = call(conv, x)
            grad = torch.ones_like(out)
            grad[0, 2, 0, 0] = bad if place == "grad" else 1.0
            out.backward(grad)
            found.append((x.grad.isfinite(), conv.weight.grad.isfinite()))
    for ours, torchs in zip(found[:2], found[2:], strict=True):
        assert not ours[1].all()
        assert torch.equal(ours[1], torchs[1])
        assert torch.equal(ours[0], torchs[0])


def test_a_frozen_weight_and_a_second_derivative(loops):
    conv = layer(4, 3, 2)
    exact = copy.deepcopy(conv).double()
    x = images(2, 4, 6, 6)
    y = x.detach().double().requires_grad_()
    found = []
    for out, at in ((by_loop(conv, x), x), (exact(y), y)):
        (first,) = torch.autograd.grad(out.pow(3).sum(), at, create_graph=True)
        first.square().sum().backward()
        found.append(at.grad)
    close(found[0], found[1], 1e-5)
    close(conv.weight.grad, exact.weight.grad, 1e-5)
    conv.weight.grad = None
    conv.weight.requires_grad_(False)
    by_loop(conv, x).sum().backward()
    assert conv.weight.grad is None


def by_torch(conv, x):
    """`convolve` where the loops must not be asked for."""
    return convolve(conv, x, lambda: pytest.fail("the loops were asked for"))


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 1},
        {"groups": 3},
        {"bias": True},
        {"padding": 0},
        {"dilation": 2},
        {"padding_mode": "reflect"},
        {"stride": (2, 1)},
    ],
    ids=str,
)
def test_torchs_operator_serves_other_convolutions(options, monkeypatch):
    monkeypatch.setattr(eager, "COMPILED_FROM", 0)
    conv = layer(6, 3, options.pop("stride", 2), **options)
    x = images(2, 6, 9, 9)
    assert torch.equal(by_torch(conv, x), conv(x))


def test_torchs_operator_serves_what_is_traced_or_needs_no_gradient(monkeypatch):
    monkeypatch.setattr(eager, "COMPILED_FROM", 0)
    conv, x = layer(6, 3, 2), images(2, 6, 9, 9)
    expected = conv(x)
    assert torch.equal(by_torch(conv, x.detach()), expected)
    with torch.no_grad():
        assert torch.equal(by_torch(conv, x), expected)
    compiled = torch.compile(lambda t: by_torch(conv, t), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), expected)
    by_torch(conv.double(), x.double())
