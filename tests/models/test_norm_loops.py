"""Batch normalisation joined with its activation is torch's two layers, or steps aside for them."""

import copy

import pytest
import torch
from norm_layers import ACTIVATIONS, TOLERANCE, close, images, layers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fusedface.models.blocks import conv_bn
from fusedface.models.loops import eager, library
from fusedface.models.loops.norm import norm
from fusedface.models.prelu import PReLU


def joined(pair, x):
    out = norm(pair[0], pair[1] if len(pair) > 1 else None, x, library.loops)
    assert "Joined" in out.grad_fn.name()
    return out


@pytest.mark.parametrize(
    "shape", [(3, 5, 6, 7), (2, 33, 19, 11), (70, 8, 3, 1), (1, 16, 9, 9)], ids=str
)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_values_and_gradients_are_those_of_torch_in_float64(dtype, activation, shape, loops):
    ours = layers(shape[1], activation)
    exact = copy.deepcopy(ours).double()
    x = images(*shape, dtype=dtype).requires_grad_()
    y = x.detach().double().requires_grad_()
    grad = torch.randn(shape, dtype=dtype)  # in another order in memory
    out, expected = joined(ours, x), exact(y)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    out.backward(grad)
    expected.backward(grad.double())
    tolerance = TOLERANCE[dtype]
    close(out, expected, tolerance)
    close(x.grad, y.grad, 4 * tolerance)
    for (name, weight), other in zip(ours.named_parameters(), exact.parameters(), strict=True):
        assert weight.grad.dtype == torch.float32, name
        close(weight.grad, other.grad, 1e-5)
    for (name, buffer), other in zip(ours.named_buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(buffer.double(), other.double(), rtol=1e-5, atol=1e-6, msg=name)


def test_the_same_bits_on_any_number_of_threads(loops):
    x, results, threads = images(4, 24, 20, 20), [], torch.get_num_threads()
    grad = torch.randn_like(x)
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            pair, a = layers(24), x.clone().requires_grad_()
            out = joined(pair, a)
            out.backward(grad)
            results.append([out, a.grad, *(p.grad for p in pair.parameters()), *pair.buffers()])
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, results[0], results[1]))
    assert all(map(torch.equal, results[0], results[2]))


@pytest.mark.parametrize("counter", ["kept", "none"])
def test_statistics_that_are_not_tracked_stay(counter, loops):
    """Torch then leaves the running statistics as they are, also where there is nothing to count with."""
    pair = layers(6)
    pair[0].track_running_stats = False
    if counter == "none":
        pair[0].num_batches_tracked = None
    before, x = copy.deepcopy(pair), images(2, 6, 5, 5)
    close(norm(*pair, x, library.loops), before(x.double().float()), TOLERANCE[torch.float32])
    assert torch.equal(pair[0].running_mean, before[0].running_mean)
    assert torch.equal(pair[0].running_var, before[0].running_var)


@pytest.mark.parametrize("first", [0.0, 1e4])
def test_a_far_mean_and_a_far_first_number_cost_no_digits(first, loops):
    """A variance of 1 around 1000; a first number that is no sample of the rest."""
    x = images(8, 4, 40, 40)
    x.copy_(torch.randn(x.shape) + 1000 * (first == 0.0))
    x[0, :, 0, 0] += first
    exact = nn.BatchNorm2d(4).double()
    bn = nn.BatchNorm2d(4)
    joined([bn], x)
    exact(x.double())
    torch.testing.assert_close(bn.running_var.double(), exact.running_var, rtol=1e-4, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_not_finite_comes_out_as_from_torch(activation, bad, loops):
    ours = layers(6, activation)
    plain = copy.deepcopy(ours)
    x = images(2, 6, 5, 5)
    x[1, 3, 2, 2] = bad
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = joined(ours, a), plain(b)
    out.sum().backward()
    expected.sum().backward()
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(a.grad.isfinite(), b.grad.isfinite())
    assert torch.equal(ours[0].running_var.isnan(), plain[0].running_var.isnan())
    g = torch.zeros_like(x)
    g[0, 2, 0, 0] = bad  # a gradient
    a = images(2, 6, 5, 5).requires_grad_()
    joined(ours, a).backward(g)
    assert (~a.grad.isfinite()).sum() == a.grad[:, 2].numel()


def test_frozen_weights_get_no_gradient(loops):
    x, grad = images(2, 6, 9, 9), torch.randn(2, 6, 9, 9)
    full, a = layers(6), x.clone().requires_grad_()
    joined(full, a).backward(grad)
    for name in ("0.weight", "0.bias", "1.weight", "x"):
        pair, b = layers(6), x.clone().requires_grad_(name != "x")
        for key, weight in pair.named_parameters():
            weight.requires_grad_(key != name)
        joined(pair, b).backward(grad)
        gradients = {**{key: p.grad for key, p in pair.named_parameters()}, "x": b.grad}
        expected = {**{key: p.grad for key, p in full.named_parameters()}, "x": a.grad}
        for key, gradient in gradients.items():
            assert gradient is None if key == name else torch.equal(gradient, expected[key])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_backward_can_be_differentiated(activation, loops):
    """The gradient of a squared gradient, against torch in float64."""
    ours = layers(4, activation)
    exact = nn.Sequential(*copy.deepcopy(ours).double())
    x = images(2, 4, 5, 5).requires_grad_()
    y = x.detach().double().requires_grad_()
    found = []
    for out, at in ((joined(ours, x), x), (exact(y), y)):
        (first,) = torch.autograd.grad(out.pow(3).sum(), at, create_graph=True)
        first.square().sum().backward()
        found.append(at.grad)
    close(*found, 1e-4)


def by_torch(bn, act, x):
    """`norm` where the loops must not be asked for."""
    return norm(bn, act, x, lambda: pytest.fail("the loops were asked for"))


def in_no_grad(pair, x):
    with torch.no_grad():
        return by_torch(*pair, x)


def under_a_mode(pair, x):
    with FlopCounterMode(display=False):
        return by_torch(*pair, x)


def with_a_hook(pair, x):
    seen = []
    hook = pair[1].register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    out = by_torch(*pair, x)
    hook.remove()
    assert len(seen) == 1
    return out


def with_a_forward_of_its_own(pair, x):
    own, seen = pair[0].forward, []
    pair[0].forward = lambda images: own(seen.append(images) or images)
    out = by_torch(*pair, x)
    assert len(seen) == 1
    return out


def evaluated(pair, x):
    return by_torch(pair[0].eval(), pair[1], x)


def evaluated_where_another_reads_x(pair, x):
    return in_no_grad([pair[0].eval(), pair[1]], x)


def evaluated_with_gradients(pair, x):
    bn = pair[0].eval()
    return norm(bn, pair[1], x, lambda: pytest.fail("the loops were asked for"), is_own=True)


def under_vmap(pair, x):
    def one(images):
        return by_torch(nn.BatchNorm2d(6, track_running_stats=False), None, images)

    return torch.func.vmap(one)(x[None])[0]


def without_running_statistics(pair, x):
    return by_torch(nn.BatchNorm2d(6, track_running_stats=False), pair[1], x)


def with_a_cumulative_average(pair, x):
    return by_torch(nn.BatchNorm2d(6, momentum=None), pair[1], x)


def of_one_slope(pair, x):
    return by_torch(pair[0], PReLU(), x)


def in_float64(pair, x):
    return by_torch(*pair.double(), x.double())


def in_nchw(pair, x):
    return by_torch(*pair, x.contiguous())


def compiled(pair, x):
    torch._dynamo.reset()
    return torch.compile(lambda t: by_torch(*pair, t), backend="eager", fullgraph=True)(x)


@pytest.mark.parametrize(
    "call",
    [in_no_grad, under_a_mode, with_a_hook, with_a_forward_of_its_own, evaluated,
     evaluated_where_another_reads_x, evaluated_with_gradients, under_vmap, without_running_statistics,
     with_a_cumulative_average, of_one_slope, in_float64, in_nchw, compiled],
)  # fmt: skip
def test_torchs_operators_serve_all_else(call, monkeypatch):
    monkeypatch.setattr(eager, "COMPILED_FROM", 0)
    monkeypatch.setattr(eager, "INFERENCE_FROM", 0)
    assert call(layers(6), images(2, 6, 9, 9)).isfinite().all()
    with pytest.raises(pytest.fail.Exception):  # the plain case does ask
        by_torch(*layers(6), images(2, 6, 9, 9))


def test_small_tensors_start_no_compiler():
    asked = []
    for side, starts in ((63, False), (64, True)):
        norm(*layers(32), images(1, 32, side, 64), lambda: asked.append(True))
        assert bool(asked) == starts


def test_a_block_keeps_its_names_and_trains_as_before(loops, monkeypatch):
    """Five steps of two blocks, against torch's operators; state_dict, copy and running statistics."""
    torch.manual_seed(0)
    plain = nn.Sequential(conv_bn(3, 16, 3, padding=1, activation="prelu"), conv_bn(16, 8))
    ours = copy.deepcopy(plain)
    assert list(ours.state_dict()) == [
        *(f"0.{name}" for name in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean",
          "bn.running_var", "bn.num_batches_tracked", "act.weight")),
        *(f"1.{name}" for name in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean",
          "bn.running_var", "bn.num_batches_tracked")),
    ]  # fmt: skip
    x, target = images(8, 3, 12, 12), torch.randn(8, 8, 12, 12)
    curves = []
    for network, smallest in ((ours, 0), (plain, 10**9)):
        monkeypatch.setattr(eager, "COMPILED_FROM", smallest)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        losses = []
        for _ in range(5):
            loss = (network(x) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        curves.append(torch.stack(losses))
    assert curves[0][-1] < curves[0][0]
    torch.testing.assert_close(*curves, rtol=1e-5, atol=0)
    for (name, found), expected in zip(
        ours.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=name)


def test_a_slope_with_gaps_in_memory(loops):
    """Each channel has its own slope, wherever it lies."""
    pair, x = layers(6), images(3, 6, 5, 4)
    expected = pair(x)
    pair[1].weight = nn.Parameter(pair[1].weight.detach().repeat_interleave(2)[::2])
    assert not pair[1].weight.is_contiguous()
    close(joined(pair, x), expected, TOLERANCE[torch.float32])


class NoGradient(torch.autograd.Function):
    """A layer that hands back nothing."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


def test_nothing_comes_back_from_nothing(loops):
    pair, x = layers(6), images(3, 6, 5, 4)
    NoGradient.apply(joined(pair, x)).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in pair.parameters())


def test_bfloat16_keeps_every_nan(loops):
    """Those of GPUs have all bits set, which rounding must not carry into the sign."""
    for channels in (40, 5):
        pair = layers(channels, "none")
        bits = torch.full((channels,), 2**31 - 1, dtype=torch.int32)
        pair[0].bias = nn.Parameter(bits.view(torch.float32))
        assert joined(pair, images(3, channels, 5, 4, dtype=torch.bfloat16)).isnan().all()
