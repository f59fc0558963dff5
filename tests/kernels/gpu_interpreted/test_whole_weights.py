"""Weights of samples in the small kernels, against the plain path and float64."""

import dataclasses

import pytest
import torch
from margin_oracle import all_margins, inputs, matched_state, relative

from fusedface.kernels import SelfPaced, SelfPacedLinear, checks, margin_loss
from fusedface.kernels.gpu import loss_forward

MARGINS = all_margins()
FLOAT32 = 3e-5


WEIGHTINGS = [SelfPaced(first_share=0.3, growth=1.5), SelfPacedLinear()]


def trained(weighting, name, backend, tensors, **options):
    """Two batches in training and one outside of it: losses, gradients and the bound."""
    embeddings, weight, labels = tensors
    margin, results = MARGINS[name], []
    state = matched_state(margin, embeddings) | {"loss_bound": torch.tensor(0.0)}
    state = {key: value.to(embeddings.dtype) for key, value in state.items()}
    for i, training in enumerate((True, True, False)):
        x, w = embeddings.roll(i, 0).requires_grad_(), weight.clone().requires_grad_()
        out = margin_loss(
            x, w, labels.roll(i), margin, state=state, training=training, backend=backend,
            precision="float32", weighting=weighting, **options,
        )  # fmt: skip
        (out.loss.sum() + (out.per_sample_loss[:3].sum() if i else 0.0)).backward()
        assert out.state == state
        results += [
            out.per_sample_loss.detach(),
            out.loss.detach(),
            x.grad,
            w.grad,
            *state.values(),
        ]
        results = [result.clone() for result in results]
    return results


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=lambda weighting: weighting.name)
@pytest.mark.parametrize(
    ("name", "options"), [("arcface", {"reduction": "sum"}), ("magface", {}), ("adaface", {})]
)
def test_weights_of_samples_against_float64(name, options, weighting):
    """The bound of a first batch, a later one, and weights outside of training."""
    embeddings, weight, labels = inputs(19, 70, 16)
    labels[::5] = -1
    truths = trained(
        weighting, name, "reference", (embeddings.double(), weight.double(), labels), **options
    )
    found = trained(weighting, name, "triton", (embeddings, weight, labels), **options)
    shares = [(losses > 0).sum() for losses in found if losses.shape == labels.shape]
    assert 0 < shares[0] < (labels >= 0).sum()  # some samples have no weight
    for actual, truth in zip(found, truths, strict=True):
        assert relative(actual, truth) < FLOAT32


@pytest.mark.parametrize(("block", "rows"), [(32, 75), (1024, 257)])
def test_more_rows_than_one_block_against_float64(block, rows, monkeypatch):
    """The one program of a kernel takes three blocks of 32, or three of 128: 257 rows are padded to 384."""
    monkeypatch.setattr(loss_forward, "BLOCK", block)
    embeddings, weight, labels = inputs(rows, 40, 16)
    labels[::7] = -1
    weighting, tensors = WEIGHTINGS[0], (embeddings, weight, labels)
    doubles = embeddings.double(), weight.double(), labels
    truths = trained(weighting, "adaface", "reference", doubles)
    for actual, truth in zip(trained(weighting, "adaface", "triton", tensors), truths, strict=True):
        assert relative(actual, truth) < FLOAT32


@pytest.mark.parametrize("losses", ["none is valid", "none is finite", "one"])
def test_the_first_bound_of_few_losses(losses, monkeypatch):
    monkeypatch.setattr(checks, "check_values", lambda *args: None)
    monkeypatch.setattr(checks, "check_centres", lambda *args: None)
    embeddings, weight, labels = inputs(5, 30, 16)
    labels[1:] = -1
    if losses == "none is finite":
        embeddings[0] = torch.inf
    labels[0] = -1 if losses == "none is valid" else labels[0]
    state = {"loss_bound": torch.tensor(0.0)}
    out = margin_loss(
        embeddings, weight, labels, MARGINS["arcface"], state=state, weighting=SelfPaced(),
        training=True, backend="triton", reduction="sum",
    )  # fmt: skip
    if losses != "one":
        assert state["loss_bound"] == 0.0
        return
    assert out.loss == 0.0  # its loss is not below the bound, which is that loss
    by_itself = margin_loss(embeddings, weight, labels, MARGINS["arcface"], backend="reference")
    torch.testing.assert_close(state["loss_bound"], by_itself.per_sample_loss[0])


def test_a_weighting_of_ones_own_takes_the_plain_path():
    """A subclass may have changed the weights, which its numbers do not tell."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Halves(SelfPaced):
        def weights(self, losses, state):
            return 0.5 * torch.ones_like(losses)

    embeddings, weight, labels = inputs(9, 41, 16)
    given = (embeddings, weight, labels, MARGINS["cosface"])
    half = margin_loss(*given, backend="triton", weighting=Halves()).loss
    torch.testing.assert_close(half, 0.5 * margin_loss(*given, backend="triton").loss)
