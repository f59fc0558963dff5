"""The small kernels around the pass over the classes against the plain path, which they must equal."""

import dataclasses

import pytest
import torch
from margin_oracle import all_margins, compare, fresh_state, inputs, matched_state, relative

from fusedface.kernels import (
    LDAM,
    Batch,
    functional,
    margin_loss,
)
from fusedface.kernels.margins import form_of

MARGINS = all_margins()
FLOAT32 = 3e-5
# Both have the same products; only a coefficient that is rounded differently may tell them apart.
TOLERANCE = {"float32": FLOAT32, "float16": 1e-3}
STATISTICS = ("target_cosine", "max_negative_cosine", "correct", "hard_negatives", "modulation")


def test_every_margin_has_a_form():
    assert all(form_of(margin) for margin in MARGINS.values())


@pytest.fixture
def paths(monkeypatch):
    """Both ways to the same loss: by the small kernels, and by PyTorch on B numbers."""

    def both(run):
        results = [run()]
        with monkeypatch.context() as patch:
            patch.setattr(functional, "_kept_call", lambda *args: None)
            results.append(run())
        return results

    return both


OPTIONS = [
    {},
    {"focal_gamma": 2.0, "reduction": "sum"},
    {"focal_gamma": 0.5, "target_gradient": "straight_through"},
    {"reduction": "none", "ignore_index": 255},
    {"training": True, "ignore_index": 3},
    {"training": True, "precision": "float16"},
]


@pytest.mark.parametrize(
    ("name", "options"),
    # Each margin with some option, and those with a state with every one.
    [(name, OPTIONS[i % len(OPTIONS)]) for i, name in enumerate(MARGINS)]
    + [("curricularface", options) for options in OPTIONS[:-2]]
    + [("adaface", options) for options in OPTIONS[-2:]]
    + [("magface easy", options) for options in OPTIONS[1:3]],
    ids=str,
)
def test_as_the_plain_path(name, options, paths):
    """Losses, gradients, statistics and state, of a loss that depends on all that has gradient."""
    margin = MARGINS[name]
    embeddings, weight, labels = inputs(9, 70, 16)
    labels[::5] = options.get("ignore_index", -1)
    weights = torch.linspace(0.5, 2.0, len(labels))

    def run():
        x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
        state = matched_state(margin, embeddings)
        chosen = {"precision": "float32"} | options
        out = margin_loss(x, w, labels, margin, state=state, backend="triton", **chosen)
        (3.0 * out.loss.sum() + (weights * out.per_sample_loss).sum()).backward()
        return out, x.grad, w.grad, state

    (out, *grads, state), (expected, *truths, moved) = paths(run)
    for field in ("loss", "per_sample_loss"):
        torch.testing.assert_close(
            getattr(out, field), getattr(expected, field), rtol=1e-5, atol=1e-5
        )
    for actual, truth in zip(grads, truths, strict=True):
        assert relative(actual, truth.double()) < TOLERANCE[options.get("precision", "float32")]
    for field in STATISTICS:
        torch.testing.assert_close(getattr(out, field), getattr(expected, field), equal_nan=True)
    for used in (out.state, state):
        torch.testing.assert_close(used, expected.state if used is out.state else moved)
    if options.get("training") and state:
        fresh = matched_state(margin, embeddings)
        assert all(value != fresh[key] for key, value in state.items())


@pytest.mark.parametrize("upstream", [2.0**16, -3.0, 0.0])
@pytest.mark.parametrize("name", ["arcface", "curricularface", "magface"])
def test_a_gradient_of_the_reduced_loss_only(name, upstream, paths):
    """Its factors come from the forward: they must bear any sign and any loss scale, and a second use."""
    margin = MARGINS[name]
    embeddings, weight, labels = inputs(9, 70, 16)
    labels[::5] = -1

    def run():
        x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
        state = matched_state(margin, embeddings)
        out = margin_loss(
            x, w, labels, margin, state=state, backend="triton", precision="float16", training=True
        )
        gradient = torch.tensor([1.0, upstream])[1]  # its memory is not aligned
        first, second = (
            torch.autograd.grad(out.loss, (x, w), gradient, retain_graph=again) for again in (True, False)
        )  # fmt: skip
        assert all(map(torch.equal, first, second))
        return first

    for actual, truth in zip(*paths(run), strict=True):
        if upstream:
            assert relative(actual, truth.double()) < TOLERANCE["float16"]
        assert actual.any() == truth.any() == (upstream != 0.0)


# One of each kind of T.
@pytest.mark.parametrize(
    "name",
    [
        "cosface",
        "arcface",
        "arcface easy",
        "combined m1=1.35",
        "adaface",
        "ldam",
        "magface",
        "magface easy",
    ],
)
def test_target_and_its_slope(name):
    """T and T' of the device at every angle, ends included, against the margin in float64."""
    margin = MARGINS[name]
    dim, num = 2, 40
    theta = torch.linspace(0, torch.pi, num, dtype=torch.float64)
    # A third class far away in both: its logit hardly counts, so loss and gradient tell T and T'.
    embeddings = 25.0 * torch.stack([theta.cos(), theta.sin()], dim=1).float()
    weight = torch.tensor([[1.0, 0.0], [0.6, -0.8]])
    labels = torch.zeros(num, dtype=torch.int64)
    state = fresh_state(margin) | {
        key: torch.tensor(value) for key, value in (("norm_mean", 20.0), ("norm_std", 10.0))
        if key in margin.initial_state()
    }  # fmt: skip
    precise = {key: value.double() for key, value in state.items()}
    results = []
    for backend, x in (("triton", embeddings), ("reference", embeddings.double())):
        x = x.clone().requires_grad_()
        used = state if backend == "triton" else precise
        out = margin_loss(x, weight.to(x.dtype), labels, margin, state=used, backend=backend,
                          precision="float32", reduction="sum")  # fmt: skip
        out.loss.backward()
        results.append((out.per_sample_loss.detach(), x.grad))
    (loss, dx), (expected, truth) = results
    assert dim == embeddings.shape[1]
    torch.testing.assert_close(loss.double(), expected, rtol=2e-5, atol=2e-5)
    assert relative(dx[1:-1], truth[1:-1]) < 1e-4
    assert dx.isfinite().all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["cosface", "curricularface", "adaface"])
def test_no_row_is_valid(name, training):
    embeddings, weight, _ = inputs(7, 41, 16)
    margin = MARGINS[name]
    state = fresh_state(margin)
    x, w = embeddings.requires_grad_(), weight.requires_grad_()
    out = margin_loss(
        x, w, torch.full((7,), -1), margin, state=state, backend="triton", training=training
    )
    out.loss.backward()
    assert out.loss == 0
    assert not x.grad.any()
    assert not w.grad.any()
    assert state == fresh_state(margin)
    assert out.target_cosine.isnan().all()


def test_one_valid_row_leaves_the_deviation_of_the_lengths():
    embeddings, weight, labels = inputs(4, 41, 16)
    labels[1:] = -1
    margin = MARGINS["adaface"]
    state = fresh_state(margin)
    margin_loss(embeddings, weight, labels, margin, state=state, backend="triton", training=True)
    assert state["norm_std"] == margin.initial_state()["norm_std"]
    assert state["norm_mean"] != margin.initial_state()["norm_mean"]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_labels_of_other_integers_and_strides(dtype):
    embeddings, weight, labels = inputs(9, 41, 16)
    expected = margin_loss(embeddings, weight, labels, MARGINS["mvarc"], backend="triton")
    strided = torch.stack([labels, labels + 1], dim=1).to(dtype)[:, 0]
    assert strided.stride() == (2,)
    for ignored in (-1, 2**40):
        out = margin_loss(
            embeddings, weight, strided, MARGINS["mvarc"], backend="triton", ignore_index=ignored
        )
        assert torch.equal(out.per_sample_loss, expected.per_sample_loss)


def test_a_state_that_is_not_a_number_of_float32_takes_the_plain_path(paths):
    embeddings, weight, labels = inputs(9, 41, 16)
    state = {"t": torch.tensor(0.1, dtype=torch.float64)}
    got, expected = paths(
        lambda: margin_loss(
            embeddings, weight, labels, MARGINS["curricularface"], state=state, backend="triton",
            training=True,
        )
    )  # fmt: skip
    assert got.state["t"].dtype == expected.state["t"].dtype == torch.float64


def test_a_margin_of_ones_own_takes_the_plain_path():
    """A subclass may have changed T, which its numbers do not tell."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Halved(type(MARGINS["cosface"])):
        notes: list = dataclasses.field(default_factory=list)  # such a margin has no hash

        def target(self, batch: Batch, state):
            return batch.cos_y - 0.5 * self.m

    embeddings, weight, labels = inputs(9, 41, 16)
    losses = [
        margin_loss(embeddings, weight, labels, margin, backend=backend).loss
        for margin in (Halved(), MARGINS["cosface"])
        for backend in ("triton", "reference")
    ]
    torch.testing.assert_close(losses[0], losses[1])
    assert abs(losses[0] - losses[2]) > 1.0


@pytest.mark.parametrize("counts", [(9, 1, 4, 16), (1, 9, 16, 4), (5, 2)], ids=str)
def test_counts_of_images(counts):
    """Margins that differ in nothing else are not confused; too few counts take the plain path."""
    embeddings, weight, _ = inputs(6, 4, 16)
    labels = torch.tensor([0, 1, 1, 0, -1, len(counts) - 1])
    compare(LDAM(s=8.0, class_counts=counts), embeddings, weight, labels, "triton", FLOAT32)


def test_the_same_bits_again():
    embeddings, weight, labels = inputs(9, 70, 16)
    runs = []
    for _ in range(2):
        x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
        margin_loss(x, w, labels, MARGINS["adaface"], backend="triton").loss.backward()
        runs.append((x.grad, w.grad))
    assert all(map(torch.equal, *runs))
