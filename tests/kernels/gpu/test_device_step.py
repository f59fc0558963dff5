"""A training step on a CUDA device: waiting, graphs, memory, sizes, streams; `pytest -m gpu`."""

import pytest
import torch
from margin_oracle import inputs

from fusedface.kernels import CurricularFace, margin_loss
from fusedface.models import MarginHead

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def make_step(dim, num_rows=256, num_classes=10_000, **options):
    head = MarginHead(
        dim, num_classes, CurricularFace(), precision="bfloat16", device="cuda", **options
    )
    embeddings = torch.randn(num_rows, dim, device="cuda", requires_grad=True)
    labels = torch.randint(num_classes, (num_rows,), device="cuda")

    def step():
        embeddings.grad = head.weight.grad = None
        out = head(embeddings, labels)
        out.loss.backward()
        return out

    return head, embeddings, labels, step


@pytest.mark.parametrize("options", [{}, {"focal_gamma": 1.0}], ids=str)
@pytest.mark.parametrize("dim", [128, 512])
def test_nothing_waits_for_the_device(dim, options):
    *_, step = make_step(dim, **options)
    step()  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dim", [128, 512])
def test_a_step_is_captured_in_a_cuda_graph(dim):
    head, embeddings, labels, step = make_step(dim)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    embeddings.grad = head.weight.grad = None
    with torch.cuda.graph(graph):
        out = head(embeddings, labels)
        out.loss.backward()
    with torch.no_grad():
        embeddings.copy_(torch.randn_like(embeddings))
        labels.copy_(torch.randint(10_000, labels.shape, device="cuda"))
    t = head.t.clone()
    graph.replay()
    captured = [out.loss.clone(), embeddings.grad.clone(), head.weight.grad.clone(), head.t.clone()]
    head.t.copy_(t)
    eager = step()
    expected = [eager.loss, embeddings.grad, head.weight.grad, head.t]
    for one, other in zip(captured, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dim", [128, 512])
def test_a_compiled_step_is_one_graph_and_gives_the_same(dim):
    head, embeddings, labels, step = make_step(dim)
    t = head.t.clone()
    expected = step()
    gradients = embeddings.grad.clone(), head.weight.grad.clone()
    head.t.copy_(t)
    embeddings.grad = head.weight.grad = None
    out = torch.compile(head, fullgraph=True)(embeddings, labels)
    out.loss.backward()
    torch.testing.assert_close(out.loss, expected.loss, rtol=1e-4, atol=0.0)
    torch.testing.assert_close((embeddings.grad, head.weight.grad), gradients, rtol=1e-3, atol=1e-6)


CONSTANT = 2**26  # bytes: partial sums, a chunk of coefficients, unit embeddings


def extra_memory(call):
    """Bytes that `call` takes at its peak beyond what is there before it."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize(
    ("num_rows", "num_classes", "dim"), [(512, 85_742, 128), (1024, 360_232, 512)]
)
def test_memory_of_a_step(num_rows, num_classes, dim):
    """The gradient of the class centres, their unit rows in bfloat16, and what does not grow with C."""
    head, embeddings, labels, step = make_step(dim, num_rows, num_classes)
    step()
    embeddings.grad = head.weight.grad = None
    gradient, unit_rows = 4 * num_classes * dim, 2 * num_classes * dim
    assert gradient < extra_memory(step) < gradient + unit_rows + 8 * num_classes + CONSTANT
    embeddings.grad = head.weight.grad = None
    with torch.no_grad():
        assert (
            extra_memory(lambda: head(embeddings, labels)) < unit_rows + 8 * num_classes + CONSTANT
        )


def test_two_million_classes():
    """Eager would hold several matrices of 1024 x 2,000,000 float32 numbers, 8 GB each."""
    num_rows, num_classes, dim = 1024, 2_000_000, 512
    if torch.cuda.mem_get_info()[0] < 16e9:
        pytest.skip("needs 16 GB free")
    head, _, labels, step = make_step(dim, num_rows, num_classes)
    out = step()
    assert out.per_sample_loss.isfinite().all()
    # Of a head that knows nothing yet: random cosines of deviation 1 / sqrt(D), a margin of 0.5.
    assert 40 < out.loss < 64
    assert (head.weight.grad[labels].norm(dim=1) > 0).all()
    gradient, unit_rows = 4 * num_classes * dim, 2 * num_classes * dim
    head.weight.grad = None
    assert extra_memory(step) < gradient + unit_rows + 8 * num_classes + CONSTANT


def test_more_than_2_31_elements():
    """Class centres beyond the reach of 32-bit offsets: the last classes are as right as the first."""
    num_classes, dim = 2**31 // 512 + 1000, 512
    if torch.cuda.mem_get_info()[0] < 2.6 * 4 * num_classes * dim:
        pytest.skip("needs 26 bytes for each number of the class centres, free")
    weight = torch.empty(num_classes, dim, device="cuda").normal_().requires_grad_()
    labels = torch.tensor([0, 5, num_classes - 1, num_classes - 700], device="cuda")
    x = torch.randn(4, dim, device="cuda", requires_grad=True)
    out = margin_loss(x, weight, labels, CurricularFace(), backend="triton", precision="bfloat16")
    out.loss.backward()
    cos = torch.nn.functional.cosine_similarity(x, weight[labels])
    torch.testing.assert_close(out.target_cosine, cos.detach(), rtol=1e-4, atol=1e-5)
    along = (weight.grad[labels] * weight[labels].detach()).sum(dim=1)
    pulled = weight.grad[labels].norm(dim=1)
    assert (pulled > 0).all()
    assert (along.abs() < 1e-2 * pulled * weight[labels].norm(dim=1)).all()


@pytest.mark.parametrize("dim", [128, 512])
def test_the_current_stream(dim):
    """Kernels wait for inputs that the current stream still has to write, and no other stream does."""
    head, embeddings, _, step = make_step(dim)
    head.eval()
    expected = [step().loss, embeddings.grad, head.weight.grad]
    values = embeddings.detach().clone()
    embeddings.detach().fill_(torch.nan)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)  # clock cycles
        embeddings.detach().copy_(values)
        again = [step().loss, embeddings.grad, head.weight.grad]
    torch.cuda.current_stream().wait_stream(side)
    for one, other in zip(again, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
@pytest.mark.parametrize("dim", [128, 512])
def test_another_device_than_the_current(dim):
    results = []
    problem = inputs(32, 500, dim)
    for device in ("cuda:0", "cuda:1"):
        x, w, y = (tensor.to(device) for tensor in problem)
        x.requires_grad_()
        out = margin_loss(x, w.requires_grad_(), y, CurricularFace(), precision="bfloat16")
        out.loss.backward()
        assert out.loss.device == x.device
        results.append([out.loss.detach().cpu(), x.grad.cpu(), w.grad.cpu()])
    torch.testing.assert_close(*results)
