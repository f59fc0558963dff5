"""Loss and gradients of every margin, option and backend against the float64 oracle."""

import pytest
import torch
from margin_oracle import (
    all_margins,
    compare,
    fresh_state,
    inputs,
    loss_and_gradients,
    matched_state,
    reaches_branches,
    relative,
    run,
)

from fusedface.kernels import (
    ArcFace,
    CurricularFace,
    MagFace,
    MVArc,
    NormFace,
    chunked,
    margin_loss,
)
from fusedface.kernels.products import bfloat16_is_fast

BACKENDS = ["reference", "chunked", "compiled"]
MARGINS = all_margins()
SHAPES = [(64, 1024, 128), (63, 997, 96), (1, 2, 16), (5, 131, 7)]  # aligned, ragged, smallest, odd

# Float32 keeps 6e-8 of a cosine; at s = 64 a logit is off by 4e-6 and a probability by as much.
FLOAT32 = 3e-5
FLOAT64 = 1e-11


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", 64 * 100)
    monkeypatch.setattr(chunked, "MIN_CHUNK", 2)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MARGINS)
def test_loss_and_gradients_match_the_oracle(name, shape, backend):
    embeddings, weight, labels = inputs(*shape)
    if shape[0] > 1:
        assert reaches_branches(embeddings, weight, labels, 0.5)
    compare(MARGINS[name], embeddings, weight, labels, backend, FLOAT32)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("name", MARGINS)
def test_float64_is_exact(name, backend):
    compare(MARGINS[name], *inputs(63, 997, 32, dtype=torch.float64), backend, FLOAT64)


OPTIONS = [
    {"focal_gamma": 2.0},
    {"focal_gamma": 0.5},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"target_gradient": "straight_through"},
    {"ignore_index": -1},
    {"ignore_index": 255},
]


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    "name", ["arcface", "mvarc", "curricularface", "adaface", "magface", "ldam"]
)
def test_options(name, options, backend):
    embeddings, weight, labels = inputs(48, 301, 32)
    if "ignore_index" in options:
        labels[::3] = options["ignore_index"]
    out = compare(MARGINS[name], embeddings, weight, labels, backend, FLOAT32, **options)
    if "ignore_index" in options:
        ignored = labels == options["ignore_index"]
        assert (out.per_sample_loss[ignored] == 0).all()
        assert not out.correct[ignored].any()
        assert out.hard_negatives[ignored].sum() == 0
        assert out.target_cosine[ignored].isnan().all()


@pytest.mark.parametrize("wrong", MARGINS)
@pytest.mark.parametrize("name", MARGINS)
def test_margins_are_told_apart(name, wrong):
    """The tolerance means something: no margin passes for another."""
    if name == wrong:
        pytest.skip("the same margin")
    embeddings, weight, labels = inputs(64, 512, 32)
    embeddings *= 4.0  # lengths around AdaFace's initial mean
    state = fresh_state(MARGINS[name])
    out, _, _ = run(MARGINS[name], embeddings, weight, labels, state, "chunked")
    loss, _, _ = loss_and_gradients(
        MARGINS[wrong], embeddings, weight, labels, fresh_state(MARGINS[wrong])
    )
    assert relative(out.per_sample_loss, loss) > 30 * FLOAT32


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("name", MARGINS)
def test_gradcheck(name, backend):
    margin = all_margins(s=8.0)[name]
    embeddings, weight, labels = inputs(6, 11, 5, dtype=torch.float64, seed=3)
    labels[1] = -1
    state = matched_state(margin, embeddings, torch.float64)
    lengths = embeddings.norm(dim=1, keepdim=True)

    def losses(x, w):
        # AdaFace lets no gradient flow through the lengths, so they are held fixed here.
        x = x * (lengths / x.norm(dim=1, keepdim=True))
        return margin_loss(
            x, w, labels, margin, state=state, backend=backend, focal_gamma=1.0, reduction="none"
        ).loss  # fmt: skip

    assert torch.autograd.gradcheck(losses, (embeddings.requires_grad_(), weight.requires_grad_()))


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_gradcheck_through_the_lengths(backend):
    """MagFace's margin and penalty depend on them; nothing is held fixed here."""
    margin = MagFace(s=8.0, l_a=0.5, u_a=12.0, lambda_g=3.0)
    embeddings, weight, labels = inputs(6, 11, 5, dtype=torch.float64, seed=3)
    labels[1] = -1
    assert ((embeddings.norm(dim=1) > 0.5) & (embeddings.norm(dim=1) < 12.0)).sum() > 3

    def losses(x):
        return margin_loss(x, weight, labels, margin, backend=backend, reduction="none").loss

    assert torch.autograd.gradcheck(losses, (embeddings.requires_grad_(),))


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["arcface", "curricularface"])
def test_half_precision_inputs(name, dtype, backend):
    """Half-precision inputs are exact inputs: only their gradients are rounded to their dtype."""
    embeddings, weight, labels = inputs(32, 301, 32, dtype=dtype)
    margin = MARGINS[name]
    state = fresh_state(margin)
    out, dx, dw = run(margin, embeddings, weight, labels, state, backend)
    loss, dx_true, dw_true = loss_and_gradients(margin, embeddings, weight, labels, state)
    assert out.loss.dtype == torch.float32
    assert (dx.dtype, dw.dtype) == (dtype, dtype)
    assert relative(out.per_sample_loss, loss) < FLOAT32
    eps = torch.finfo(dtype).eps
    assert relative(dx, dx_true) < eps
    assert relative(dw, dw_true) < eps


@pytest.mark.parametrize("name", ["arcface", "curricularface"])
@pytest.mark.parametrize("backend", ["chunked", "compiled"], indirect=True)
def test_bfloat16_products(name, backend):
    """Products in bfloat16 are that, and err no more than twice what torch's own in bfloat16 do."""
    embeddings, weight, labels = inputs(64, 4096, 128)
    margin = MARGINS[name]
    state = fresh_state(margin)
    truth = loss_and_gradients(margin, embeddings, weight, labels, state)
    rounded = run(margin, embeddings, weight, labels, state, "reference", precision="bfloat16")
    got = run(margin, embeddings, weight, labels, state, backend, precision="bfloat16")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = run(margin, embeddings, weight, labels, state, backend)
    for i, expected in enumerate(truth):
        pick = [out[i] if i else out[0].per_sample_loss for out in (rounded, got, autocast)]
        error, budget = relative(pick[1], expected), 2 * relative(pick[0], expected)
        assert error <= budget
        assert error > 1e-5 or not bfloat16_is_fast()  # float32 would pass the budget as well
        assert torch.equal(pick[1], pick[2])  # autocast chooses the same path


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_statistics(backend):
    margin = CurricularFace(m=0.5, s=32.0)
    embeddings, weight, labels = inputs(40, 203, 24, dtype=torch.float64)
    labels[7] = -1
    state = fresh_state(margin, torch.float64)
    out = margin_loss(embeddings, weight, labels, margin, state=state, backend=backend)

    x, w = (a / a.norm(dim=1, keepdim=True) for a in (embeddings, weight))
    slopes, top = [], []
    for i in range(40):
        cos = x[i] @ w.T
        others = cos[torch.arange(203) != labels[i]]
        top.append(others.max())
        if labels[i] < 0:
            continue
        bar = torch.cos(torch.acos(cos[labels[i]]) + 0.5)
        assert out.hard_negatives[i] == (others > bar).sum()
        assert out.correct[i] == (cos[labels[i]] > others.max())
        torch.testing.assert_close(out.target_cosine[i], cos[labels[i]])
        slopes.append(0.3 + 2 * others[others > bar])
    slopes = torch.cat(slopes)
    torch.testing.assert_close(out.max_negative_cosine, torch.stack(top))
    expected = (slopes.min(), slopes.mean(), slopes.max())
    torch.testing.assert_close(tuple(out.modulation), expected)
    assert out.state == {"t": 0.3}


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_modulation_without_re_weighting_and_of_mv(backend):
    embeddings, weight, labels = inputs(40, 203, 24)
    plain = margin_loss(embeddings, weight, labels, NormFace(), backend=backend)
    assert tuple(plain.modulation) == (1.0, 1.0, 1.0)
    assert plain.state == {}
    fixed = margin_loss(embeddings, weight, labels, MVArc(t=1.4), backend=backend).modulation
    torch.testing.assert_close(torch.stack(fixed), torch.full((3,), 1.4))
    # Every embedding on its own class centre, and those orthogonal: nothing is hard.
    easy = margin_loss(torch.eye(8), torch.eye(8), torch.arange(8), MVArc(), backend=backend)
    assert easy.hard_negatives.sum() == 0
    assert torch.stack(easy.modulation).isnan().all()


def test_only_what_is_asked_for_is_differentiated():
    embeddings, weight, labels = inputs(8, 50, 16)
    frozen = weight.clone()
    x = embeddings.clone().requires_grad_()
    margin_loss(x, frozen, labels, NormFace()).loss.backward()
    w = weight.clone().requires_grad_()
    margin_loss(embeddings, w, labels, NormFace()).loss.backward()
    both_x, both_w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    margin_loss(both_x, both_w, labels, NormFace()).loss.backward()
    torch.testing.assert_close(x.grad, both_x.grad)
    torch.testing.assert_close(w.grad, both_w.grad)
    with torch.no_grad():
        assert not margin_loss(x, w, labels, NormFace()).loss.requires_grad


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8], ids=str)
@pytest.mark.parametrize("num_classes", [256, 300, 40_000])
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_labels_of_small_integers(backend, num_classes, dtype):
    """Class 255 is not ignored as -1 would be in 8 bits, and no class is too large for the number C."""
    classes = [0, 44, 255, 30_000, num_classes - 1]
    largest = min(num_classes - 1, torch.iinfo(dtype).max)
    labels = torch.tensor([c for c in classes if c <= largest])
    embeddings, weight = torch.randn(len(labels), 4), torch.randn(num_classes, 4)
    expected, found = (
        margin_loss(embeddings, weight, labels.to(kind), ArcFace(), backend=backend)
        for kind in (torch.int64, dtype)
    )
    assert torch.equal(found.per_sample_loss, expected.per_sample_loss)
    assert (found.per_sample_loss > 0).all()
