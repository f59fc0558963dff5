"""The same truths on a CUDA device, and what only a device can show: `pytest -m gpu`."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from emulated_head import inputs as inputs_clear_of_the_threshold
from margin_oracle import (
    all_margins,
    fresh_state,
    inputs,
    loss_and_gradients,
    matched_state,
    reaches_branches,
    relative,
)

from fusedface.kernels import CurricularFace, HeadOptions, SelfPaced, margin_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICE = "cuda"  # gpu_emulated/test_of_device.py sets it to the emulated GPU's
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
    return [tensor.to(DEVICE) for tensor in tensors]


def run(margin, embeddings, weight, labels, state, **options):
    x, w, y = on_device(embeddings, weight, labels)
    x.requires_grad_()
    w.requires_grad_()
    state = {name: value.to(DEVICE) for name, value in state.items()}
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
    "options", [{"weighting": SelfPaced(growth=1.5)}, {"sample_rate": 0.5}], ids=str
)
@pytest.mark.parametrize("name", ["arcface", "curricularface"])
def test_weights_and_samples_are_those_of_the_plain_path(name, options):
    """Two steps in training: the second raises the bound. The plain path draws the same classes."""
    embeddings, weight, labels = on_device(*inputs(200, 701, 128))
    labels[::3] = -1
    results = []
    for backend in ("triton", "reference"):
        torch.manual_seed(0)
        chosen = HeadOptions(margin=MARGINS[name], backend=backend, precision="float32", **options)
        state = {key: torch.tensor(v, device=DEVICE) for key, v in chosen.initial_state().items()}
        for _ in range(2):
            x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
            out = margin_loss(x, w, labels, chosen, state=state, training=True)
            out.loss.backward()
        losses = out.per_sample_loss.detach()
        results.append([losses, x.grad, w.grad.to_dense(), *state.values()])
    for actual, expected in zip(*results, strict=True):
        assert relative(actual.cpu(), expected.cpu()) < FLOAT32


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
@pytest.mark.parametrize("shape", [(512, 1024, 128), (200, 999, 256), (256, 1024, 512)], ids=str)
@pytest.mark.parametrize("name", ["arcface", "mvarc", "curricularface"])
def test_rounded_operands_stay_within_the_budget(name, shape, precision):
    margin = MARGINS[name]
    embeddings, weight, labels = inputs_clear_of_the_threshold(margin, *shape)
    problem = (margin, embeddings, weight, labels, matched_state(margin, embeddings))
    truth = loss_and_gradients(*problem, reduction="sum")
    torchs = torchs_own(problem, precision)
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
        ("triton", DEVICE, torch.float32, precision),
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
    state = {key: value.to(DEVICE) for key, value in fresh_state(MARGINS[name]).items()}
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
    out = margin_loss(
        embeddings, weight, labels, CurricularFace(), backend="triton", precision="bfloat16"
    )
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
    with torch.autocast(DEVICE, dtype=dtype):
        automatic = run(MARGINS["curricularface"], embeddings, weight, labels, state)
    for one, other in zip(forced, automatic, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dim", [128, 512])
def test_two_runs_give_the_same_bits(dim):
    problem = (CurricularFace(), *inputs(512, 20_000, dim), {"t": torch.tensor(0.3)})
    first, second = (run(*problem, precision="bfloat16") for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


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
