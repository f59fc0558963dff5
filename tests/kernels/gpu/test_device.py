"""The same truths on a CUDA device, and what only a device can show: `pytest -m gpu`."""

import pytest
import torch
from margin_oracle import (
    all_margins,
    fresh_state,
    inputs,
    loss_and_gradients,
    matched_state,
    reaches_branches,
    relative,
    rounded_loss_and_gradients,
)

from fusedface.kernels import CurricularFace, margin_loss
from fusedface.models import MarginHead

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
MARGINS = all_margins()
# Aligned, ragged, smallest, odd; D in both schedules, and no power of two in each.
SHAPES = [
    (64, 1024, 128),
    (63, 997, 96),
    (1, 2, 16),
    (5, 131, 7),
    (130, 3001, 256),
    (48, 501, 512),
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


@pytest.mark.parametrize(
    ("precision", "rounding"),
    [("bfloat16", torch.bfloat16), ("float16", torch.float16), ("tf32", torch.float16)],
)
@pytest.mark.parametrize("shape", [(512, 4096, 128), (200, 3001, 256), (256, 4096, 512)], ids=str)
@pytest.mark.parametrize("name", ["arcface", "mvarc", "curricularface"])
def test_rounded_operands_stay_within_the_budget(name, shape, precision, rounding):
    """tf32 has float16's fraction and more range, so it is held against torch's float16."""
    embeddings, weight, labels = inputs(*shape)
    margin = MARGINS[name]
    state = matched_state(margin, embeddings)
    problem = (margin, embeddings, weight, labels, state)
    truth = loss_and_gradients(*problem, reduction="sum")
    torchs = rounded_loss_and_gradients(*problem, rounding, reduction="sum")
    got = run(*problem, precision=precision, reduction="sum")
    for actual, other, expected in zip(got, torchs, truth, strict=True):
        assert relative(actual, expected) <= BUDGET * relative(other, expected)
    assert relative(got[0], truth[0]) > 1e-7  # operands were rounded


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


def make_step(dim, num_rows=256, num_classes=10_000):
    head = MarginHead(dim, num_classes, CurricularFace(), precision="bfloat16", device="cuda")
    embeddings = torch.randn(num_rows, dim, device="cuda", requires_grad=True)
    labels = torch.randint(num_classes, (num_rows,), device="cuda")

    def step():
        embeddings.grad = head.weight.grad = None
        out = head(embeddings, labels)
        out.loss.backward()
        return out

    return head, embeddings, labels, step


@pytest.mark.parametrize("dim", [128, 512])
def test_nothing_waits_for_the_device(dim):
    *_, step = make_step(dim)
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
    torch.testing.assert_close(out.loss, expected.loss)
    torch.testing.assert_close((embeddings.grad, head.weight.grad), gradients, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("num_rows", "num_classes", "dim"), [(512, 85_742, 128), (1024, 360_232, 512)]
)
def test_memory_of_a_step(num_rows, num_classes, dim):
    """The gradient of the class centres, their unit rows in bfloat16, and what does not grow with C."""
    head, _, _, step = make_step(dim, num_rows, num_classes)
    step()
    head.weight.grad = None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    extra = torch.cuda.max_memory_allocated() - before
    gradient, unit_rows = 4 * num_classes * dim, 2 * num_classes * dim
    constant = 2**26  # partial sums, a chunk of coefficients, unit embeddings
    assert extra < gradient + unit_rows + 8 * num_classes + constant
    assert extra < num_rows * num_classes * 4 + gradient  # nothing of size B x C


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


def test_several_streams_and_devices():
    *_, step = make_step(128)
    expected = step().loss
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        again = step().loss
    torch.cuda.current_stream().wait_stream(side)
    assert again.isfinite()
    assert expected.isfinite()
    if torch.cuda.device_count() < 2:
        return
    embeddings, weight, labels = (tensor.to("cuda:1") for tensor in inputs(8, 100, 128))
    loss = margin_loss(embeddings, weight, labels, CurricularFace(), backend="triton").loss
    assert loss.device.index == 1
    truth, _, _ = loss_and_gradients(
        CurricularFace(), embeddings.cpu(), weight.cpu(), labels.cpu(), {"t": 0.0}
    )
    torch.testing.assert_close(loss.cpu().double(), truth.mean(), rtol=1e-4, atol=1e-4)


def test_tuning(tmp_path, monkeypatch):
    from fusedface.kernels.gpu import cache, choice, tuning

    monkeypatch.setenv("FUSEDFACE_CACHE", str(tmp_path))
    choice.stored.cache_clear()
    timings = tuning.tune(256, 10_000, 128)
    assert all(timing.milliseconds > 0 for timing in timings)
    assert cache.path().exists()
    choice.stored.cache_clear()
    choice.ranked.cache_clear()
