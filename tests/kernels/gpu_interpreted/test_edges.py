"""Poles, zero vectors, duplicates, saturation, strides, and what is differentiated."""

import math

import pytest
import torch
from margin_oracle import all_margins, fresh_state, inputs, loss_and_gradients, relative

from fusedface.kernels import ArcFace, CurricularFace, NormFace, checks, margin_loss
from fusedface.kernels.gpu import layout
from fusedface.kernels.gpu.arguments import Numbers

MARGINS = all_margins()


def run(margin, embeddings, weight, labels, state=None, **options):
    x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    state = state or fresh_state(margin)
    out = margin_loss(x, w, labels, margin, state=state, backend="triton", **options)
    out.loss.sum().backward()
    assert out.per_sample_loss.isfinite().all()
    assert x.grad.isfinite().all()
    assert w.grad.isfinite().all()
    return out, x.grad, w.grad


@pytest.mark.parametrize("name", ["normface", "arcface", "mvarc", "curricularface"])
def test_target_cosine_of_plus_and_minus_one(name, schedule):
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 64, generator=g)
    labels = torch.tensor([0, 1, 2, 3])
    embeddings = weight[labels] * torch.tensor([2.0, 0.3, -1.0, -9.0])[:, None]
    margin = MARGINS[name]
    out, dx, _ = run(margin, embeddings, weight, labels, reduction="none")
    loss, _, _ = loss_and_gradients(margin, embeddings, weight, labels, fresh_state(margin))
    # 64 times the bound on the sine, at most.
    assert (out.per_sample_loss.double() - loss).abs().max() < 1e-3
    x = embeddings.double()
    along = (dx.double() * x).sum(dim=1) / x.norm(dim=1)
    assert along.abs().max() < 1e-4 * dx.abs().max().clamp_min(1e-6)


def test_zero_embedding(schedule):
    embeddings, weight, labels = inputs(4, 10, 16)
    embeddings[2] = 0
    out, dx, dw = run(CurricularFace(), embeddings, weight, labels, reduction="sum")
    assert out.target_cosine[2] == 0
    assert (dx[2] == 0).all()
    rest = [0, 1, 3]
    _, _, dw_rest = run(CurricularFace(), embeddings[rest], weight, labels[rest], reduction="sum")
    torch.testing.assert_close(dw, dw_rest, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("column", [0, 4])  # a target, and a mere negative
def test_zero_class_centre(column, schedule):
    embeddings, weight, _ = inputs(4, 10, 16)
    weight[column] = 0
    _, dx, dw = run(CurricularFace(), embeddings, weight, torch.tensor([0, 1, 2, 3]))
    assert (dw[column] == 0).all()
    assert dx.abs().sum() > 0


@pytest.mark.parametrize("name", ["arcface", "mvarc", "curricularface"])
def test_duplicate_classes_and_duplicate_labels(name, schedule):
    """A negative at the target's own cosine, and several samples of one class."""
    embeddings, weight, _ = inputs(6, 10, 16)
    weight[5] = weight[1]
    labels = torch.tensor([1, 5, 1, 1, 5, 9])
    margin = MARGINS[name]
    out, dx, dw = run(margin, embeddings, weight, labels)
    loss, dx_true, dw_true = loss_and_gradients(
        margin, embeddings, weight, labels, fresh_state(margin)
    )
    assert relative(out.per_sample_loss, loss) < 1e-5
    assert relative(dx, dx_true) < 1e-4
    assert relative(dw, dw_true) < 1e-4


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_large_t_does_not_overflow(precision):
    """Logits reach s (1 + t): 128 at s = 64 and t = 1, and e^128 is not a float32."""
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 32, generator=g)
    weight = shared + 0.05 * torch.randn(70, 32, generator=g)  # every cosine near 1
    embeddings = shared + 0.05 * torch.randn(8, 32, generator=g)
    labels = torch.arange(8)
    state = {"t": torch.tensor(1.0)}
    margin = CurricularFace(s=64.0)
    out, dx, dw = run(margin, embeddings, weight, labels, state, precision=precision)
    truth = loss_and_gradients(margin, embeddings, weight, labels, state)
    tolerance = 1e-4 if precision == "float32" else 0.1  # half a step of float16 is 0.03 in a logit
    for actual, expected in zip((out.per_sample_loss, dx, dw), truth, strict=True):
        assert relative(actual, expected) < tolerance


@pytest.mark.parametrize("t", [0.3, 1.0])
def test_rows_that_the_fixed_reference_does_not_suit(t, schedule):
    """Every negative far below: their exponentials over a common reference vanish in float32."""
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 32, generator=g)
    weight = shared + 0.05 * torch.randn(170, 32, generator=g)
    sides = torch.tensor([-1.0, 1.0, -1.0, -1.0, 1.0])[:, None]  # cosines near -1 and near 1
    embeddings = sides * shared + 0.05 * torch.randn(5, 32, generator=g)
    labels, state = torch.arange(5), {"t": torch.tensor(t)}
    margin = CurricularFace(s=74.0)  # about the largest at which the reference is fixed
    assert Numbers(margin.s, 1.0, 0.0, "float32", reweights=True).reference(len(weight)).fixed
    out, dx, dw = run(margin, embeddings, weight, labels, state, reduction="sum")
    truth = loss_and_gradients(margin, embeddings, weight, labels, state, reduction="sum")
    for actual, expected in zip((out.per_sample_loss, dx, dw), truth, strict=True):
        assert relative(actual, expected) < 1e-4


@pytest.mark.parametrize(
    ("s", "precision", "dim"),
    [(64.0, "float16", 32), (64.0, "float16", 300), (148.0, "float32", 32)],
)
def test_embeddings_opposite_to_every_class_centre(s, precision, dim):
    """A padded class centre has cosine 0: next to cosines near -1 its coefficient overflows.

    Two classes are often so, whatever the network: each is the other's only negative.
    """
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(1, dim, generator=g)
    weight = shared + 0.2 * torch.randn(10, dim, generator=g)
    embeddings = 0.2 * torch.randn(5, dim, generator=g) - shared
    labels, margin = torch.arange(5), ArcFace(s=s)
    out, dx, dw = run(margin, embeddings, weight, labels, precision=precision, reduction="sum")
    truth = loss_and_gradients(
        margin, embeddings, weight, labels, fresh_state(margin), reduction="sum"
    )
    for actual, expected in zip((out.per_sample_loss, dx, dw), truth, strict=True):
        assert relative(actual, expected) < (1e-4 if precision == "float32" else 0.05)


@pytest.mark.parametrize("negative", [False, True])
def test_gradients_that_push_the_loss_up(negative, schedule):
    """Samples with a weight below 0: their coefficients change their sign, whose logarithm is not taken."""
    embeddings, weight, labels = inputs(9, 150, 32)
    signs = torch.tensor([1.0, -2.0, 0.0] * 3)
    if negative:
        signs = -signs
    gradients = []
    for backend in ("reference", "triton"):
        x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
        state = {"t": torch.tensor(0.3)}
        out = margin_loss(
            x, w, labels, CurricularFace(), state=state, backend=backend, reduction="none"
        )
        (out.loss * signs).sum().backward()
        gradients.append((x.grad, w.grad))
    for expected, actual in zip(*gradients, strict=True):
        assert relative(actual, expected.double()) < 1e-4


def test_tiny_losses_keep_their_digits(schedule):
    """log(1 + e^-40) is 4e-18: a difference of two log-sum-exps would be 0, and its gradient with it."""
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    out, _, _ = run(NormFace(s=20.0), weight[:1], weight, torch.tensor([0]))
    assert out.loss.item() == pytest.approx(math.exp(-40.0), rel=1e-4)


@pytest.mark.parametrize("magnitude", [1e-20, 1e20])
def test_gradients_of_any_size_survive_float16(magnitude):
    """Coefficients are carried over their largest, so a loss scale neither underflows nor overflows."""
    embeddings, weight, labels = inputs(16, 90, 32)
    gradients = []
    for scale in (1.0, magnitude):
        x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
        out = margin_loss(x, w, labels, ArcFace(), backend="triton", precision="float16")
        (out.loss * scale).backward()
        gradients.append((x.grad / scale, w.grad / scale))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_non_contiguous_inputs(schedule):
    embeddings, weight, labels = inputs(8, 30, 16)
    wide = torch.stack([embeddings, embeddings], dim=2)[..., 0]
    turned = weight.T.contiguous().T
    spaced = torch.stack([labels, labels], dim=1)[:, 1]
    assert not any(tensor.is_contiguous() for tensor in (wide, turned, spaced))
    expected = run(ArcFace(), embeddings, weight, labels)
    leaves = [wide.detach().requires_grad_(), turned.detach().requires_grad_()]
    out = margin_loss(*leaves, spaced, ArcFace(), backend="triton")
    out.loss.backward()
    torch.testing.assert_close(out.loss, expected[0].loss)
    torch.testing.assert_close([leaf.grad for leaf in leaves], list(expected[1:]))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_all_rows_ignored(reduction, schedule):
    embeddings, weight, _ = inputs(4, 10, 16)
    labels = torch.full((4,), -1)
    out, dx, dw = run(CurricularFace(), embeddings, weight, labels, reduction=reduction)
    assert (out.loss == 0).all()
    assert (dx == 0).all()
    assert (dw == 0).all()


def test_an_update_after_the_forward_does_not_change_the_backward(schedule):
    embeddings, weight, labels = inputs(8, 30, 16)
    state = {"t": torch.tensor(0.3)}
    x = embeddings.clone().requires_grad_()
    loss = margin_loss(x, weight, labels, CurricularFace(), state=state, backend="triton").loss
    state["t"].fill_(5.0)
    loss.backward()
    _, dx, _ = loss_and_gradients(CurricularFace(), embeddings, weight, labels, {"t": 0.3})
    assert relative(x.grad, dx) < 3e-5


def test_only_what_is_asked_for_is_computed(schedule, started):
    """Frozen embeddings or class centres cost nothing, nor do gradients under no_grad."""
    embeddings, weight, labels = inputs(8, 50, 16)
    x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    _, dx, dw = run(ArcFace(), embeddings, weight, labels)
    both = dict(started).get("products_kernel", 0)

    started.clear()
    margin_loss(x, weight, labels, ArcFace(), backend="triton").loss.backward()
    programs = dict(started)
    assert "centre_gradient_kernel" not in programs
    of_embeddings = programs.get("products_kernel", 0)
    torch.testing.assert_close(x.grad, dx)
    started.clear()
    margin_loss(embeddings, w, labels, ArcFace(), backend="triton").loss.backward()
    programs = dict(started)
    assert not {"flash_kernel", "embedding_gradient_kernel"} & programs.keys()
    assert of_embeddings + programs.get("products_kernel", 0) == both
    assert schedule == "narrow" or 0 < of_embeddings < both
    torch.testing.assert_close(w.grad, dw)
    started.clear()
    with torch.no_grad():
        assert not margin_loss(x, w, labels, ArcFace(), backend="triton").loss.requires_grad
    names = [name for name, _ in started]
    assert names == ["rows_kernel", "margin_kernel", "lse_kernel", "finish_kernel", "reduce_kernel"]


def test_splits_do_not_change_the_result_beyond_rounding(schedule, monkeypatch):
    embeddings, weight, labels = inputs(20, 333, 32)
    runs = []
    for processors in (1, 8):
        monkeypatch.setattr(layout, "INTERPRETED_MULTIPROCESSORS", processors)
        runs.append(run(CurricularFace(), embeddings, weight, labels))
    one, many = runs
    torch.testing.assert_close(
        many[0].per_sample_loss, one[0].per_sample_loss, rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(many[1:], one[1:], rtol=1e-4, atol=1e-7)


def test_two_runs_give_the_same_bits(schedule):
    embeddings, weight, labels = inputs(20, 200, 32)
    first, second = (run(CurricularFace(), embeddings, weight, labels) for _ in range(2))
    assert torch.equal(first[0].per_sample_loss, second[0].per_sample_loss)
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[2], second[2])


def test_refuses_what_it_does_not_compute():
    embeddings, weight, labels = inputs(4, 10, 16, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"embeddings is float64.*backend='chunked'"):
        margin_loss(embeddings, weight, labels, ArcFace(), backend="triton")
    with pytest.raises(ValueError, match="empty"):
        margin_loss(embeddings[:0], weight, labels[:0], ArcFace(), backend="triton")


@pytest.mark.parametrize(
    ("dtype", "length", "counts"),
    [(torch.float32, 1e-10, True), (torch.float32, 1e-13, False),
     (torch.float16, 2e-4, True), (torch.float16, 1e-6, False)],
    ids=str,
)  # fmt: skip
def test_how_short_a_row_may_be(dtype, length, counts):
    """As on the CPU: down to what the dtype can tell."""
    weight = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    embeddings = (torch.nn.functional.normalize(weight[:2], dim=1) * length).to(dtype)
    out, dx, _ = run(NormFace(s=1.0), embeddings, weight, torch.tensor([0, 1]))
    assert (out.target_cosine > 0.9).all() if counts else (out.target_cosine == 0).all()
    assert (dx != 0).any() == counts


@pytest.mark.parametrize("name", ["embeddings", "weight"])
def test_a_row_too_long_to_square_is_a_nan(name, monkeypatch):
    """Nothing is read on a GPU, so it is no error there: it shows in the loss, as a NaN does."""
    monkeypatch.setattr(checks, "check_values", lambda *args: None)
    monkeypatch.setattr(checks, "check_centres", lambda *args: None)
    embeddings, weight, labels = inputs(4, 10, 16)
    {"embeddings": embeddings, "weight": weight}[name][3] *= 1e20
    labels[0] = 3
    out = margin_loss(embeddings, weight, labels, ArcFace(), backend="triton")
    assert out.per_sample_loss[3 if name == "embeddings" else 0].isnan()
