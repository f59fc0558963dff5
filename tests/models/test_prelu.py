"""The fast PReLU is torch's PReLU."""

import io

import pytest
import torch
from torch import nn

from fusedface.kernels.chunks import build
from fusedface.models import prelu
from fusedface.models.prelu import PReLU


def pair(channels=5, dtype=torch.float32):
    fast, plain = PReLU(channels).to(dtype), nn.PReLU(channels).to(dtype)
    slopes = torch.linspace(-0.5, 1.5, channels).to(dtype)
    for layer in (fast, plain):
        layer.weight.data.copy_(slopes)
    return fast, plain


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(dtype, memory_format):
    fast, plain = pair(dtype=dtype)
    x = torch.randn(3, 5, 6, 7, dtype=dtype).contiguous(memory_format=memory_format)
    x[0, :, 0, 0] = 0.0
    grad = torch.randn_like(x)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    fast(a).backward(grad)
    plain(b).backward(grad)
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad)
    assert torch.equal(fast(x), plain(x))


@pytest.mark.parametrize("shape", [(3, 5, 6, 7), (2, 33, 19, 11), (1, 5, 1, 1)], ids=str)
def test_the_compiled_backward(shape, monkeypatch):
    """That of torch in float64 up to rounding, the same bits on any number of threads, NaN kept."""
    if build.library() is None:
        pytest.skip(build.state())
    monkeypatch.setattr(prelu, "COMPILED_FROM", 0)
    fast, plain = pair(shape[1])
    plain = plain.double()
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    x[0, 0, 0, 0] = 0.0
    grad = torch.randn(shape)  # in another order in memory
    exact = x.double().requires_grad_()
    plain(exact).backward(grad.double())
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            a, fast.weight.grad = x.clone().requires_grad_(), None
            fast(a).backward(grad)
            results.append((a.grad, fast.weight.grad))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *results))
    for found, expected in zip(results[0], (exact.grad, plain.weight.grad), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    a = x.clone().index_fill_(0, torch.tensor([0]), torch.nan).requires_grad_()
    fast(a).backward(grad)
    assert torch.equal(a.grad[0], grad[0])  # as torch: where x is not at most 0


def test_gradcheck():
    fast, _ = pair(dtype=torch.float64)
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fast, x)


def gradient_penalty(layer, x):
    """A loss on the gradient of a loss."""
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
    layer.weight.grad = None
    first.square().sum().backward()
    return [x.grad, layer.weight.grad]


def by_torch_func(layer, x):
    def loss(weight, images):
        return torch.func.functional_call(layer, {"weight": weight}, (images,)).pow(3).sum()

    given = layer.weight.detach(), x
    gradients = torch.func.grad(loss, argnums=(0, 1))(*given)
    return [*gradients, torch.func.jvp(loss, given, gradients)[1]]


@pytest.mark.parametrize("derive", [gradient_penalty, by_torch_func])
def test_derivatives_of_every_kind_are_torchs(derive):
    fast, plain = pair(dtype=torch.float64)
    x = torch.randn(3, 5, 6, 7, dtype=torch.float64)
    for found, expected in zip(derive(fast, x), derive(plain, x), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_trace_with_gradients_on_can_be_saved():
    fast, plain = pair()
    x, file = torch.randn(2, 5, 4, 4), io.BytesIO()
    torch.jit.save(torch.jit.trace(fast, x), file)
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(x), plain(x))


def test_under_autocast():
    """In bfloat16 the gradients differ from torch's only by rounding."""
    fast, plain = pair(32)
    x = torch.randn(4, 32, 8, 8, dtype=torch.bfloat16)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one, other = fast(a), plain(b)
    assert one.dtype == torch.bfloat16
    assert torch.equal(one, other.to(torch.bfloat16))
    one.float().sum().backward()
    other.float().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=2**-7, atol=0)
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad, rtol=2**-6, atol=0.1)


def test_state_dict_and_compile():
    fast, plain = pair()
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(2, 5, 4, 4)
    compiled = torch.compile(fast, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), plain(x))
