"""Where published heads give NaN or nonsense: poles, zero vectors, duplicates, saturation, wrong input."""

import math

import numpy as np
import pytest
import torch
from margin_oracle import all_margins, fresh_state, inputs, loss_and_gradients, relative

from fusedface.kernels import (
    ArcFace,
    CurricularFace,
    NonFiniteInputError,
    NormFace,
    chunked,
    margin_loss,
)

BACKENDS = ["reference", "chunked", "compiled"]
MARGINS = all_margins()


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(chunked, "MIN_CHUNK", 3)


def run(margin, embeddings, weight, labels, backend, **options):
    x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    out = margin_loss(x, w, labels, margin, state=fresh_state(margin), backend=backend, **options)
    out.loss.sum().backward()
    assert out.per_sample_loss.isfinite().all()
    assert x.grad.isfinite().all()
    assert w.grad.isfinite().all()
    return out, x.grad, w.grad


def poles():
    """Embeddings on and opposite to their class centre, in float32 where their cosine lands beyond 1."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 128, generator=g)
    labels = torch.tensor([0, 1, 2, 3])
    return weight[labels] * torch.tensor([2.0, 0.3, -1.0, -9.0])[:, None], weight, labels


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("name", MARGINS)
def test_target_cosine_of_plus_and_minus_one(name, backend):
    """The loss is exact there, and what is along the embedding has no gradient."""
    embeddings, weight, labels = poles()
    margin = MARGINS[name]
    out, dx, _ = run(margin, embeddings, weight, labels, backend, reduction="none")
    loss, _, _ = loss_and_gradients(margin, embeddings, weight, labels, fresh_state(margin))
    assert (
        out.per_sample_loss.double() - loss
    ).abs().max() < 1e-3  # 64 * the bound on the sine, at most
    if margin.learns_norms:
        return  # its penalty does pull on the length
    x = embeddings.double()
    along = (dx.double() * x).sum(dim=1) / x.norm(dim=1)
    assert along.abs().max() < 1e-4 * dx.abs().max().clamp_min(1e-6)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("name", MARGINS)
def test_zero_embedding(name, backend):
    """It has no direction: every cosine is 0 and nothing pulls on it, or on a class centre through it."""
    embeddings, weight, labels = inputs(4, 10, 16)
    embeddings[2] = 0
    margin = MARGINS[name]
    out, dx, dw = run(margin, embeddings, weight, labels, backend, reduction="sum")
    assert out.target_cosine[2] == 0
    assert (dx[2] == 0).all()
    rest = [0, 1, 3]
    _, _, dw_rest = run(margin, embeddings[rest], weight, labels[rest], backend, reduction="sum")
    torch.testing.assert_close(dw, dw_rest, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("column", [0, 4])  # a target, and a mere negative
def test_zero_class_centre(column, backend):
    embeddings, weight, _ = inputs(4, 10, 16)
    weight[column] = 0
    out, dx, dw = run(CurricularFace(), embeddings, weight, torch.tensor([0, 1, 2, 3]), backend)
    assert (dw[column] == 0).all()
    assert dx.abs().sum() > 0
    assert out.target_cosine[0] == (0.0 if column == 0 else out.target_cosine[0])


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("name", MARGINS)
def test_duplicate_classes_and_duplicate_labels(name, backend):
    """A negative at the target's own cosine, and several samples of one class."""
    embeddings, weight, _ = inputs(6, 10, 16, dtype=torch.float64)
    weight[5] = weight[1]
    labels = torch.tensor([1, 5, 1, 1, 5, 9])
    margin = MARGINS[name]
    x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    state = fresh_state(margin, torch.float64)
    out = margin_loss(x, w, labels, margin, state=state, backend=backend)
    out.loss.backward()
    loss, dx, dw = loss_and_gradients(margin, embeddings, weight, labels, state)
    assert relative(out.per_sample_loss, loss) < 1e-10
    assert relative(x.grad, dx) < 1e-8
    assert relative(w.grad, dw) < 1e-8


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_large_t_does_not_overflow(backend):
    """Logits reach s (1 + t): 128 at s = 64 and t = 1, and e^128 is not a float32."""
    margin = CurricularFace(s=64.0)
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 32, generator=g)
    weight = shared + 0.05 * torch.randn(20, 32, generator=g)  # every cosine near 1
    embeddings = shared + 0.05 * torch.randn(8, 32, generator=g)
    labels = torch.arange(8)
    state = {"t": torch.tensor(1.0)}
    x = embeddings.clone().requires_grad_()
    out = margin_loss(x, weight, labels, margin, state=state, backend=backend)
    out.loss.backward()
    loss, dx, _ = loss_and_gradients(margin, embeddings, weight, labels, state)
    assert relative(out.per_sample_loss, loss) < 1e-5
    assert relative(x.grad, dx) < 1e-4


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_tiny_losses_keep_their_digits(backend):
    """log(1 + e^-40) is 4e-18: a difference of two log-sum-exps would be 0, and its gradient with it."""
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    out, _, _ = run(NormFace(s=20.0), weight[:1], weight, torch.tensor([0]), backend)
    assert out.loss.item() == pytest.approx(math.exp(-40.0), rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_length_does_not_matter(backend):
    embeddings, weight, labels = inputs(8, 30, 16)
    base, dx, _ = run(CurricularFace(), embeddings, weight, labels, backend)
    for scale in (1e-6, 1e6):
        out, dx_scaled, _ = run(
            CurricularFace(), embeddings * scale, weight / scale, labels, backend
        )
        torch.testing.assert_close(out.loss, base.loss)
        torch.testing.assert_close(dx_scaled * scale, dx, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize(
    ("dtype", "length", "counts"),
    [
        (torch.float32, 1.1e-12, True),
        (torch.float32, 0.9e-12, False),
        (torch.bfloat16, 1e-10, True),
        (torch.float16, 2e-4, True),
        (torch.float16, 1e-6, False),  # a direction of a digit, and a gradient past 65504
    ],
    ids=str,
)
def test_how_short_a_row_may_be(dtype, length, counts, backend):
    """A row has a direction down to what its dtype can tell; without one it takes no gradient."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 4, generator=generator)
    embeddings = (torch.nn.functional.normalize(weight[:2], dim=1) * length).to(dtype)
    margin, labels = NormFace(s=1.0), torch.tensor([0, 1])
    out, dx, _ = run(margin, embeddings, weight, labels, backend)
    loss, dx_true, _ = loss_and_gradients(margin, embeddings, weight, labels, {})
    if counts:
        torch.testing.assert_close(out.per_sample_loss.double(), loss, rtol=1e-5, atol=1e-6)
        assert (dx != 0).any()
        assert (dx.double() - dx_true).abs().max() < 0.05 / length
    else:
        assert (out.target_cosine == 0).all()
        assert (dx == 0).all()


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("name", ["embeddings", "weight"])
def test_a_row_too_long_to_square_is_refused(name, backend):
    """1e20 squared is not a float32: it would count as a row of any direction, or of none."""
    embeddings, weight, labels = inputs(4, 10, 16)
    rows = {"embeddings": embeddings, "weight": weight}[name]
    rows[3] *= 1e20
    with pytest.raises(NonFiniteInputError, match=rf"{name} .* row 3 of .* too long to be squared"):
        margin_loss(embeddings, weight, labels, ArcFace(), backend=backend)
    margin_loss(embeddings.double(), weight.double(), labels, ArcFace(), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("only_as_target", [True, False])
def test_a_class_centre_that_is_not_finite_is_named(only_as_target, value, backend):
    embeddings, weight, _ = inputs(4, 10, 16)
    weight[7, 3] = value
    labels = torch.full((4,), 7) if only_as_target else torch.tensor([0, 1, 2, 3])
    with pytest.raises(NonFiniteInputError, match=r"weight .* row 7 of 10"):
        margin_loss(embeddings, weight, labels, CurricularFace(), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_a_tie_is_not_correct(backend):
    """A negative at exactly the target's cosine, which `correct` must be above."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    out = margin_loss(weight[:2], weight, torch.tensor([0, 1]), NormFace(), backend=backend)
    assert out.correct.tolist() == [False, True]


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_largest_and_smallest_scale(scale, backend):
    """In float64: a float32 logit of a million keeps no digit behind the point."""
    embeddings, weight, labels = inputs(8, 30, 16, dtype=torch.float64)
    margin = CurricularFace(s=scale)
    state = fresh_state(margin, torch.float64)
    x = embeddings.clone().requires_grad_()
    out = margin_loss(x, weight, labels, margin, state=state, backend=backend, focal_gamma=100.0)
    out.loss.backward()
    loss, dx, _ = loss_and_gradients(margin, embeddings, weight, labels, state, gamma=100.0)
    torch.testing.assert_close(out.per_sample_loss.double(), loss, rtol=1e-8, atol=1e-30)
    torch.testing.assert_close(x.grad, dx, rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_non_contiguous_inputs(backend):
    embeddings, weight, labels = inputs(8, 30, 16)
    wide = torch.stack([embeddings, embeddings], dim=2)[..., 0]
    turned = weight.T.contiguous().T
    spaced = torch.stack([labels, labels], dim=1)[:, 1]
    assert not any(tensor.is_contiguous() for tensor in (wide, turned, spaced))
    expected = run(ArcFace(), embeddings, weight, labels, backend)
    got = run(ArcFace(), wide, turned, spaced, backend)
    torch.testing.assert_close(got[0].loss, expected[0].loss)
    torch.testing.assert_close(got[1:], expected[1:])


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_rows_ignored(reduction, backend):
    embeddings, weight, _ = inputs(4, 10, 16)
    labels = torch.full((4,), -1)
    out, dx, dw = run(CurricularFace(), embeddings, weight, labels, backend, reduction=reduction)
    assert (out.loss == 0).all()
    assert (dx == 0).all()
    assert (dw == 0).all()


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_an_update_after_the_forward_does_not_change_the_backward(backend):
    """As when losses of several batches are summed before one backward."""
    embeddings, weight, labels = inputs(8, 30, 16)
    state = {"t": torch.tensor(0.3)}
    x = embeddings.clone().requires_grad_()
    loss = margin_loss(x, weight, labels, CurricularFace(), state=state, backend=backend).loss
    state["t"].fill_(5.0)
    loss.backward()
    _, dx, _ = loss_and_gradients(CurricularFace(), embeddings, weight, labels, {"t": 0.3})
    assert relative(x.grad, dx) < 3e-5


def mistakes():
    x, w, y = inputs(4, 10, 16)
    nan = x.clone()
    nan[2, 3] = math.nan
    infinite = w.clone()
    infinite[7] = math.inf
    return [
        ((x, w, torch.tensor([0, 1, 10, 2])), ValueError, ["labels[2] = 10", "[0, 10)"]),
        ((x, w, torch.tensor([0, 1, 2, -2])), ValueError, ["labels[3] = -2", "ignore_index=-1"]),
        ((x, w, y.float()), TypeError, ["labels", "float32"]),
        ((x, w, y[:3]), ValueError, ["labels", "(4,)", "(3,)"]),
        ((x, w, y[:, None]), ValueError, ["labels", "(4, 1)"]),
        ((x[0], w, y), ValueError, ["embeddings", "(B, D)", "(16,)"]),
        ((x[:, :15], w, y), ValueError, ["weight must be (C, 15)", "(10, 16)"]),
        ((x.long(), w, y), TypeError, ["embeddings", "int64"]),
        ((x, w.int(), y), TypeError, ["weight", "int32"]),
        ((x[:0], w, y[:0]), ValueError, ["embeddings", "empty", "(0, 16)"]),
        ((x, w[:1], torch.zeros(4).long()), ValueError, ["at least 2 classes", "got 1"]),
        ((nan, w, y), NonFiniteInputError, ["embeddings", "row 2 of 4"]),
        ((x, infinite, y), NonFiniteInputError, ["weight", "row 7 of 10"]),
        ((x.numpy(), w, y), TypeError, ["embeddings", "numpy.ndarray", "torch.as_tensor"]),
        ((x, w.tolist(), y), TypeError, ["weight", "list"]),
        ((x, w, y.tolist()), TypeError, ["labels", "list"]),
        ((x, w, np.int64(3)), TypeError, ["labels", "numpy.int64"]),
        ((x, w.to_sparse(), y), TypeError, ["weight", "dense", "sparse"]),
    ]


@pytest.mark.parametrize("case", range(len(mistakes())))
def test_mistakes_are_named(case):
    tensors, kind, words = mistakes()[case]
    with pytest.raises(kind) as error:
        margin_loss(*tensors, ArcFace())
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"backend": "cuda"}, ValueError, ["backend", "'cuda'", "chunked"]),
        ({"reduction": "avg"}, ValueError, ["reduction", "'avg'", "mean"]),
        ({"precision": "fp8"}, ValueError, ["precision", "'fp8'"]),
        ({"target_gradient": "ste"}, ValueError, ["target_gradient", "straight_through"]),
        ({"focal_gamma": -1.0}, ValueError, ["focal_gamma", "-1.0"]),
        ({"focal_gamma": 1e300}, ValueError, ["focal_gamma", "1e+300", "100"]),
        ({"focal_gamma": "2"}, TypeError, ["focal_gamma", "'2'"]),
        ({"margin": "arcface"}, TypeError, ["margin", "'arcface'"]),
        ({"margin": CurricularFace(), "state": {}}, ValueError, ["state lacks t"]),
        (
            {"margin": CurricularFace(), "state": {"t": torch.tensor(math.nan)}},
            ValueError,
            ["state t", "nan", "reset_parameters()"],
        ),
        (
            {"margin": CurricularFace(), "state": {"t": torch.tensor(0.5).bfloat16()}},
            TypeError,
            ["state t", "float32", "bfloat16"],
        ),
        ({"margin": CurricularFace(), "state": {"t": 0.5}}, TypeError, ["state t", "float"]),
    ],
)
def test_wrong_options_are_named(options, kind, words):
    options = {"margin": ArcFace()} | options
    with pytest.raises(kind) as error:
        margin_loss(*inputs(4, 10, 16), **options)
    assert all(word in str(error.value) for word in words), str(error.value)
