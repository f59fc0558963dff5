"""The same truths on a CUDA device, and what only a device can show: `pytest -m gpu`."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from margin_oracle import (
    all_margins,
    fresh_state,
    inputs,
    loss_and_gradients,
    matched_state,
    reaches_branches,
    relative,
)

from fusedface.kernels import CurricularFace, margin_loss
from fusedface.models import MarginHead

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
MARGINS = all_margins()
# Aligned, ragged, smallest, odd; D a power of two, padded to one, and padded to a multiple of 128.
SHAPES = [
    (64, 1024, 128),
    (63, 997, 96),
    (1, 2, 16),
    (5, 131, 7),
    (130, 3001, 500),
    (33, 700, 300),
]
# Float32 keeps 6e-8 of a cosine; at s = 64 a logit is off by 4e-6. Three tf32 products keep as much.
FLOAT32 = 5e-5
BUDGET = 2.0  # times the error torch makes in the same precision


def on_device(*tensors):
    return [tensor.to("cuda") for tensor in tensors]


def run(margin, embeddings, weight, labels, state, **options):
    x, w, y = on_device(embeddings, weight, labels)
    x.requires_grad_()
    w.requires_grad_()
    state = {name: value.to("cuda") for name, value in state.items()}
    out = margin_loss(x, w, y, margin, state=state, backend="triton", **options)
    out.loss.sum().backward()
    return out.per_sample_loss.cpu(), x.grad.cpu(), w.grad.cpu()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MARGINS)
def test_float32_matches_the_oracle(name, shape):
    embeddings, weight, labels = inputs(*shape)
    if shape[0] > 1:
        assert reaches_branches(embeddings, weight, labels, 0.5)
    state = matched_state(MARGINS[name], embeddings)
    truth = loss_and_gradients(MARGINS[name], embeddings, weight, labels, state)
    got = run(MARGINS[name], embeddings, weight, labels, state, precision="float32")
    for actual, expected in zip(got, truth, strict=True):
        assert relative(actual, expected) < FLOAT32


@pytest.mark.parametrize(
    "options", [{"focal_gamma": 2.0}, {"target_gradient": "straight_through"}], ids=str
)
@pytest.mark.parametrize("name", ["arcface", "mvarc", "curricularface", "adaface"])
def test_options(name, options):
    embeddings, weight, labels = inputs(48, 301, 128)
    labels[::3] = -1
    state = matched_state(MARGINS[name], embeddings)
    truth = loss_and_gradients(
        MARGINS[name], embeddings, weight, labels, state,
        gamma=options.get("focal_gamma", 0.0), straight_through="target_gradient" in options,
    )  # fmt: skip
    got = run(MARGINS[name], embeddings, weight, labels, state, precision="float32", **options)
    for actual, expected in zip(got, truth, strict=True):
        assert relative(actual, expected) < FLOAT32


def torchs_own(problem, precision):
    """Loss and gradients from torch's products of unit rows in `precision`, all else in float64."""
    margin, embeddings, weight, labels, state = problem
    dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)

    def cosines(x, w):
        return (F.normalize(x, dim=1).to(dtype) @ F.normalize(w, dim=1).to(dtype).T).double()

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # tf32
    try:
        out = loss_and_gradients(
            margin, *on_device(embeddings, weight, labels), state,
            reduction="sum", of_cosines=cosines,
        )  # fmt: skip
    finally:
        torch.set_float32_matmul_precision(before)
    return [tensor.cpu() for tensor in out]


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32"])
@pytest.mark.parametrize("shape", [(512, 4096, 128), (200, 3001, 256), (256, 4096, 512)], ids=str)
@pytest.mark.parametrize("name", ["arcface", "mvarc", "curricularface"])
def test_rounded_operands_stay_within_the_budget(name, shape, precision, monkeypatch):
    embeddings, weight, labels = inputs(*shape)
    margin = MARGINS[name]
    problem = (margin, embeddings, weight, labels, matched_state(margin, embeddings))
    truth = loss_and_gradients(*problem, reduction="sum")
    torchs = torchs_own(problem, precision, monkeypatch)
    got = run(*problem, precision=precision, reduction="sum")
    for actual, other, expected in zip(got, torchs, truth, strict=True):
        assert relative(actual, expected) <= BUDGET * relative(other, expected)
    assert relative(got[0], truth[0]) > 1e-7  # operands were rounded


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("dim", [128, 512])
@pytest.mark.parametrize("name", ["arcface", "mvarc", "curricularface"])
def test_rows_without_direction_duplicates_and_poles(name, dim, precision):
    """In one batch: cosines of 1 and -1, zero vectors, equal class centres, ignored rows; any strides."""
    embeddings, weight, labels = inputs(12, 300, dim)
    labels[:4] = torch.tensor([0, 1, 2, 3])
    embeddings[0], embeddings[1] = 2.0 * weight[0], -0.5 * weight[1]
    embeddings[2] = 0.0
    weight[3], weight[299] = 0.0, weight[7]
    labels[4], labels[5] = 7, -1
    state = fresh_state(MARGINS[name])
    results = []
    backends = (
        ("reference", "cpu", torch.float64, "float32"),
        ("triton", "cuda", torch.float32, precision),
    )
    for backend, device, dtype, products in backends:
        x = torch.stack([embeddings, embeddings], dim=2).to(device, dtype)[..., 0].requires_grad_()
        w = weight.to(device, dtype).T.contiguous().T.requires_grad_()
        y = torch.stack([labels, labels], dim=1).to(device)[:, 1]
        here = {key: value.to(device) for key, value in state.items()}
        out = margin_loss(
            x, w, y, MARGINS[name], state=here, backend=backend, precision=products
        )  # fmt: skip
        out.loss.backward()
        results.append([out.per_sample_loss.detach().cpu(), x.grad.cpu(), w.grad.cpu()])
    assert (results[1][1][[2, 5]] == 0).all()
    assert (results[1][2][3] == 0).all()
    for expected, actual in zip(*results, strict=True):
        assert actual.isfinite().all()
        assert relative(actual, expected) < (1e-3 if precision == "float32" else 0.2)


@pytest.mark.parametrize("dim", [128, 512])
@pytest.mark.parametrize("name", ["normface", "mvarc", "curricularface"])
def test_statistics(name, dim):
    embeddings, weight, labels = on_device(*inputs(40, 203, dim))
    labels[7] = -1
    state = {key: value.to("cuda") for key, value in fresh_state(MARGINS[name]).items()}
    expected, got = (
        margin_loss(
            embeddings,
            weight,
            labels,
            MARGINS[name],
            state=state,
            backend=backend,
            precision="float32",
        )
        for backend in ("reference", "triton")
    )
    assert expected.hard_negatives.sum() > 0
    assert torch.equal(got.hard_negatives, expected.hard_negatives)
    assert torch.equal(got.correct, expected.correct)
    for field in ("target_cosine", "max_negative_cosine", "modulation"):
        torch.testing.assert_close(
            getattr(got, field), getattr(expected, field), equal_nan=True, rtol=1e-5, atol=1e-5
        )


def test_an_embedding_that_is_not_finite_shows_in_its_row():
    embeddings, weight, labels = on_device(*inputs(8, 100, 128))
    embeddings[3, 5] = torch.nan
    out = margin_loss(embeddings, weight, labels, CurricularFace(), precision="bfloat16")
    assert out.per_sample_loss.isnan().nonzero().flatten().tolist() == [3]


def test_a_label_out_of_range_trips_an_assertion():
    """In a process of its own, for which the device is then lost."""
    code = (
        "import torch\n"
        "from fusedface.kernels import ArcFace, margin_loss\n"
        "x, w = torch.ones(2, 16, device='cuda'), torch.ones(5, 16, device='cuda')\n"
        "margin_loss(x, w, torch.tensor([0, 5], device='cuda'), ArcFace())\n"
        "torch.cuda.synchronize()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "assert" in result.stderr


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_input_dtypes_and_autocast(dtype):
    embeddings, weight, labels = inputs(64, 1000, 128, dtype=dtype)
    state = fresh_state(MARGINS["curricularface"])
    truth = loss_and_gradients(MARGINS["curricularface"], embeddings, weight, labels, state)
    got = run(MARGINS["curricularface"], embeddings, weight, labels, state, precision="float32")
    assert (got[1].dtype, got[2].dtype) == (dtype, dtype)
    for actual, expected in zip(got, truth, strict=True):
        assert relative(actual, expected) < max(torch.finfo(dtype).eps, FLOAT32)
    forced = run(
        MARGINS["curricularface"], embeddings, weight, labels, state,
        precision=str(dtype).removeprefix("torch."),
    )  # fmt: skip
    with torch.autocast("cuda", dtype=dtype):
        automatic = run(MARGINS["curricularface"], embeddings, weight, labels, state)
    for one, other in zip(forced, automatic, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dim", [128, 512])
def test_two_runs_give_the_same_bits(dim):
    problem = (CurricularFace(), *inputs(512, 20_000, dim), {"t": torch.tensor(0.3)})
    first, second = (run(*problem, precision="bfloat16") for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


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


def test_tuning(tmp_path, monkeypatch):
    """Measurements are kept in a file, and a step with one of them gives the same within rounding."""
    from fusedface.kernels.gpu import cache, choice, tuning

    monkeypatch.setenv("FUSEDFACE_CACHE", str(tmp_path))
    choice.forget()
    problem = (CurricularFace(), *inputs(256, 10_000, 128), {"t": torch.tensor(0.3)})
    before = run(*problem, precision="bfloat16")
    timings = tuning.tune(256, 10_000, 128)
    assert {timing.case.kernel for timing in timings} == {"lse", "flash", "centres"}
    assert all(timing.milliseconds > 0 for timing in timings)
    assert cache.path().exists()
    after = run(*problem, precision="bfloat16")
    choice.forget()
    for one, other in zip(after, before, strict=True):
        assert relative(one, other.double()) < 1e-2
