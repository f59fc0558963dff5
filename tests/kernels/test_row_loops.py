"""The whole loss in compiled loops: outputs, state and errors are those of torch's operators."""

import math

import pytest
import torch
from margin_oracle import all_margins, inputs, matched_state, run
from torch._subclasses.fake_tensor import FakeTensorMode

from fusedface.kernels import (
    ArcFace,
    CurricularFace,
    MagFace,
    chunked,
    chunked_loss,
    margin_loss,
    plain_loss,
)
from fusedface.kernels.checks import NonFiniteInputError
from fusedface.kernels.chunks import build, compiled
from fusedface.kernels.chunks.library import has_memory
from fusedface.kernels.margins.form import Target
from fusedface.kernels.options import HeadOptions

MARGINS = {
    name: margin for name, margin in all_margins().items() if margin.form().target <= Target.QUALITY
}
OPTIONS = {
    "mean": {},
    "sum": {"reduction": "sum", "focal_gamma": 2.0, "ignore_index": 250},
    "none": {"reduction": "none", "target_gradient": "straight_through"},
}


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    if build.library() is None:
        pytest.skip(build.state())
    monkeypatch.setattr(chunked, "COMPILED_FROM", 0)


def call_of(margin):
    return HeadOptions(margin=margin).call(training=True, precision="float32")


def batch(options):
    embeddings, weight, labels = inputs(29, 503, 12)
    labels[[4, 17]] = options.get("ignore_index", -1)
    return embeddings, weight, labels


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", MARGINS)
def test_every_output_is_that_of_the_reference(name, options):
    options = OPTIONS[options]
    embeddings, weight, labels = batch(options)
    found = []
    for backend, dtype in (("chunked", torch.float32), ("reference", torch.float64)):
        of = embeddings.to(dtype), weight.to(dtype), labels
        state = matched_state(MARGINS[name], embeddings, dtype)
        out, dx, dw = run(MARGINS[name], *of, state, backend, training=True, **options)
        used = {f"used {key}": value for key, value in out.state.items()}
        numbers = out._asdict() | out.modulation._asdict() | used | state | {"dx": dx, "dw": dw}
        found.append({k: v for k, v in numbers.items() if isinstance(v, torch.Tensor)})
    ours, truth = found
    assert ours.keys() == truth.keys()
    for key, value in truth.items():
        torch.testing.assert_close(
            ours[key], value.to(ours[key].dtype), rtol=2e-4, atol=2e-5, equal_nan=True, msg=key
        )


def test_they_are_what_runs(monkeypatch):
    """And not for a type or a graph that they cannot take."""
    embeddings, weight, labels = batch({})
    call = call_of(ArcFace())
    assert chunked_loss.serves(embeddings, weight, call)
    assert not chunked_loss.serves(embeddings, weight, call_of(MagFace()))
    assert not chunked_loss.serves(embeddings.double(), weight, call)
    assert not chunked_loss.serves(embeddings, weight.t().contiguous().t(), call)
    monkeypatch.setattr(plain_loss, "margin_loss", None)
    assert margin_loss(embeddings, weight, labels, ArcFace()).loss.isfinite()


def test_a_batch_without_a_sample_that_counts():
    embeddings, weight, labels = batch({})
    state = {"t": torch.tensor(0.25)}
    out, dx, dw = run(
        CurricularFace(),
        embeddings,
        weight,
        torch.full_like(labels, -1),
        state,
        "chunked",
        training=True,
    )
    assert out.loss == 0.0
    assert state["t"] == 0.25
    assert not dx.any()
    assert not dw.any()
    assert out.target_cosine.isnan().all()
    assert math.isnan(out.modulation.mean)


def test_mistakes_are_named():
    embeddings, weight, labels = batch({})
    with pytest.raises(ValueError, match=r"labels\[3\] = 503"):
        margin_loss(embeddings, weight, labels.index_fill(0, torch.tensor(3), 503), ArcFace())
    with pytest.raises(NonFiniteInputError, match="embeddings must be finite, but row 5"):
        margin_loss(embeddings.index_fill(0, torch.tensor(5), math.nan), weight, labels, ArcFace())
    with pytest.raises(NonFiniteInputError, match="weight must be finite, but row 9"):
        margin_loss(embeddings, weight.index_fill(0, torch.tensor(9), math.inf), labels, ArcFace())
    with pytest.raises(NonFiniteInputError, match="state t"):
        margin_loss(
            embeddings, weight, labels, CurricularFace(), state={"t": torch.tensor(math.inf)}
        )
    with pytest.raises(ValueError, match="keep_exponentials"):
        margin_loss(embeddings.requires_grad_(), weight, labels, ArcFace(), keep_exponentials=True)


def test_gradients_of_both_losses_add_up():
    """As of a reduced loss and of a regulariser on the losses of the samples."""
    embeddings, weight, labels = batch({})
    embeddings.requires_grad_()
    out = margin_loss(embeddings, weight, labels, ArcFace())
    shares = torch.linspace(-1, 1, len(labels))
    ways = [
        out.loss,
        (out.per_sample_loss * shares).sum(),
        out.loss + (out.per_sample_loss * shares).sum(),
    ]
    first, second, both = (torch.autograd.grad(w, embeddings, retain_graph=True)[0] for w in ways)
    torch.testing.assert_close(both, first + second, rtol=1e-4, atol=1e-7)


def test_autocast_decides_only_where_the_precision_is_auto():
    losses = []
    for precision in ("float32", "auto"):
        for enabled in (False, True):
            with (
                torch.autocast("cpu", torch.bfloat16, enabled=enabled),
                torch.backends.mkldnn.flags(enabled=False),  # torch.mm, which autocast would change
            ):
                out = margin_loss(*batch({}), ArcFace(), precision=precision)
            losses.append(out.per_sample_loss)
    explicit, in_autocast, auto, auto_in_autocast = losses
    assert torch.equal(explicit, in_autocast)
    assert torch.equal(explicit, auto)
    torch.testing.assert_close(auto_in_autocast, auto, rtol=0.05, atol=0.5)


@pytest.mark.parametrize("name", ["per_sample_loss", "target_cosine", "max_negative_cosine"])
def test_outputs_can_be_changed_in_place(name):
    """As those of other backends: `loss *= share` is common, and no output is another one's memory."""
    embeddings, weight, labels = batch({})
    embeddings.requires_grad_()
    expected = margin_loss(embeddings, weight, labels, ArcFace()).per_sample_loss
    out = margin_loss(embeddings, weight, labels, ArcFace())
    getattr(out, name).mul_(2.0)
    factor = 2.0 if name == "per_sample_loss" else 1.0
    torch.testing.assert_close(out.per_sample_loss, factor * expected)
    found, truth = (
        torch.autograd.grad(of.sum(), embeddings)[0] for of in (out.per_sample_loss, expected)
    )
    torch.testing.assert_close(found, factor * truth, rtol=1e-4, atol=1e-5)


def test_an_infinite_gradient_in_an_ignored_sample_counts_nothing():
    """That of the square root of its loss, 0, is."""
    embeddings, weight, labels = batch({})
    found = []
    for rows in (slice(None), labels >= 0):
        of = embeddings[rows].requires_grad_(), weight.clone().requires_grad_()
        loss = margin_loss(*of, labels[rows], ArcFace(), ignore_index=-1).per_sample_loss.sqrt()
        found.append(torch.autograd.grad(loss.sum(), of))
    (dx, dw), (dx_without, dw_without) = found
    assert not dx[labels < 0].any()
    torch.testing.assert_close(dx[labels >= 0], dx_without, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dw, dw_without, rtol=1e-4, atol=1e-6)


def test_without_gradients_nothing_is_prepared_for_them(monkeypatch):
    """The class centres of a head want a gradient even where an evaluation switches gradients off."""
    asked = []

    def sum_up(library, of, direction, keep, in_gradient):
        asked.append((direction, keep))
        return whole(library, of, direction, keep, in_gradient)

    whole = compiled.sum_up
    monkeypatch.setattr(compiled, "sum_up", sum_up)
    embeddings, weight, labels = batch({})
    of = embeddings.requires_grad_(), weight.requires_grad_(), labels
    with torch.no_grad():
        margin_loss(*of, ArcFace())
        margin_loss(*of, MagFace())  # the passes are in loops, but not the rows
    margin_loss(*of, ArcFace())
    assert asked == [(False, False)] * 2 + [(True, True)]


def test_a_fake_tensor_is_never_read():
    embeddings, weight, _ = batch({})
    with FakeTensorMode() as mode:
        fakes = mode.from_tensor(embeddings), mode.from_tensor(weight)
        assert not chunked_loss.serves(*fakes, call_of(ArcFace()))
        assert not has_memory(torch.empty(3))


@pytest.mark.parametrize("bits", [-1, 2**31 - 1, 0x7FC00000], ids=hex)
def test_bfloat16_keeps_every_nan(bits):
    """Those of GPUs have all bits set, which rounding must not carry into the sign."""
    rows = torch.full((1, 40), bits, dtype=torch.int32).view(torch.float32)
    unit, inverse = torch.empty(1, 40, dtype=torch.bfloat16), torch.empty(1)
    build.library().unit_rows(rows, 1e-12, inverse, unit)
    assert unit.isnan().all()
