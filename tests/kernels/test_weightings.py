"""Weights of samples: against the minimisation that defines them, in the loss, and in the head's state."""

import pytest
import torch
from margin_oracle import inputs, loss_and_gradients

from fusedface.kernels import ArcFace, HeadOptions, SelfPaced, SelfPacedLinear, margin_loss
from fusedface.models import MarginHead

LOSSES = torch.linspace(0.0, 9.9, 100, dtype=torch.float64)
VALID = torch.ones(100, dtype=torch.bool)


def bound_at(value):
    return {"loss_bound": torch.tensor(value)}


def test_hard_weights_minimise_the_papers_objective():
    """v loss - v / K over v in {0, 1}, one sample at a time."""
    chosen = SelfPaced().weights(LOSSES, bound_at(4.05))
    objective = torch.stack([torch.zeros(100), LOSSES - 4.05])
    assert torch.equal(chosen, objective.argmin(dim=0).double())
    assert chosen.sum() == 41


def test_linear_weights_minimise_their_objective():
    """v loss + bound (v^2 / 2 - v) over v in [0, 1] (Jiang et al., eq. 10), on a fine grid."""
    v = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:, None]
    best = v[(v * LOSSES + 4.0 * (v.square() / 2 - v)).argmin(dim=0), 0]
    torch.testing.assert_close(
        SelfPacedLinear().weights(LOSSES, bound_at(4.0)), best, rtol=0, atol=1e-4
    )


def test_the_bound_starts_at_the_first_batch_and_grows():
    weighting, state = SelfPaced(first_share=0.25, growth=1.5), bound_at(0.0)
    assert (weighting.weights(LOSSES, state) == 1).all()  # no bound yet
    valid = VALID.clone()
    valid[:50] = False
    weighting.update_state(LOSSES, valid, state)
    first = LOSSES[50:].quantile(0.25).item()
    assert state["loss_bound"].item() == pytest.approx(first)
    weighting.update_state(LOSSES * 100, VALID, state)
    assert state["loss_bound"].item() == pytest.approx(1.5 * first)


@pytest.mark.parametrize("losses", [LOSSES * torch.nan, LOSSES * torch.inf])
def test_a_first_batch_without_losses_sets_no_bound(losses):
    state = bound_at(0.0)
    SelfPaced().update_state(losses, VALID, state)
    SelfPaced().update_state(LOSSES, ~VALID, state)
    assert state["loss_bound"] == 0
    SelfPaced(first_share=0.5).update_state(LOSSES, VALID, state)
    assert state["loss_bound"].item() == pytest.approx(LOSSES.quantile(0.5).item())


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("weighting", [SelfPaced(), SelfPacedLinear()], ids=lambda w: w.name)
def test_the_loss_and_its_gradient(weighting, backend):
    """The mean over all samples of weight times loss, the weight held fixed."""
    margin, (embeddings, weight, labels) = ArcFace(s=16.0), inputs(24, 60, 16, dtype=torch.float64)
    labels[3] = -1
    loss, _, _ = loss_and_gradients(margin, embeddings, weight, labels, {}, reduction="none")
    state = {"loss_bound": 1.01 * loss[labels >= 0].median()}
    weights = weighting.weights(loss, state)
    assert 0 < (weights > 0).sum() < 24

    x = embeddings.clone().requires_grad_()
    out = margin_loss(x, weight, labels, margin, state=state, weighting=weighting, backend=backend)
    out.loss.backward()
    torch.testing.assert_close(out.per_sample_loss, weights * loss)
    torch.testing.assert_close(out.loss, (weights * loss).sum() / 23)

    y = embeddings.clone().requires_grad_()
    plain = margin_loss(y, weight, labels, margin, backend=backend, reduction="none")
    ((weights * plain.loss).sum() / 23).backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_a_head_carries_the_bound():
    options = HeadOptions(margin=ArcFace(), weighting=SelfPaced(growth=1.1))
    torch.manual_seed(0)
    head = MarginHead(16, 30, options)
    embeddings, _, labels = inputs(12, 30, 16)
    first = head(embeddings, labels)
    bound = head.state_dict()["loss_bound"]
    assert (first.per_sample_loss > 0).sum() == 6  # below the median
    assert first.state["loss_bound"] == bound > 0
    again = MarginHead(16, 30, options)
    again.load_state_dict(head.state_dict())
    again(embeddings, labels)
    assert again.loss_bound.item() == pytest.approx(1.1 * bound.item(), rel=1e-5)
    again.eval()
    assert again(embeddings, labels).state["loss_bound"] == again.loss_bound


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: SelfPaced(first_share=1.0), ValueError, ["first_share", "1.0"]),
        (lambda: SelfPaced(growth=0.9), ValueError, ["growth", "0.9"]),
        (lambda: SelfPacedLinear(growth="2"), TypeError, ["growth", "'2'"]),
        (lambda: HeadOptions(weighting="self_paced"), TypeError, ["weighting", "'self_paced'"]),
    ],
)
def test_mistakes_are_named(make, kind, words):
    with pytest.raises(kind) as error:
        make()
    assert all(word in str(error.value) for word in words), str(error.value)
