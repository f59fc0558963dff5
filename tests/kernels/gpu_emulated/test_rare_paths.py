"""Paths that few batches take, as compiled for sm_90, with the error budgets of whole steps."""

import margin_oracle
import pytest
import torch
from emulated_head import clear_rows, emulated, hold, inputs, references, step
from margin_oracle import fresh_state
from ptx_emulator import Options

from fusedface.kernels import CurricularFace, MVArc, margin_loss
from fusedface.kernels.gpu.arguments import Numbers

pytestmark = pytest.mark.slow
ALL = pytest.mark.exhaustive
CASES = [
    (128, "bfloat16"),
    (512, "tf32"),
    pytest.param(128, "tf32", marks=ALL),
    pytest.param(512, "bfloat16", marks=ALL),
]


@pytest.fixture(autouse=True)
def gpu():
    with emulated(90, Options(check_races=True)):
        yield


@pytest.mark.parametrize(("dim", "precision"), CASES)
@pytest.mark.parametrize("margin", [MVArc(t=1.2), CurricularFace()], ids=lambda margin: margin.name)
def test_repeated_labels(margin, dim, precision):
    """Targets of one tile in several rows.

    No two class centres are equal: torch rounds the target's cosine and its double's alike, and we only
    the double's. Few rows of one class: their gradients are projected by its rounded class centre, an
    error that all of them share. In tf32 at D = 512 it passes twice torch's from a third of the batch on.
    """
    embeddings, weight, labels = margin_oracle.inputs(60, 150, dim)
    embeddings[:8] += weight[labels[0]] - weight[labels[:8]]
    labels[:8] = labels[0]
    clear = clear_rows(margin, embeddings, weight, labels)
    assert (clear < 8).sum() > 3
    problem = (margin, embeddings[clear], weight, labels[clear], fresh_state(margin, t=0.3))
    expected = references(problem, precision, reduction="sum")
    hold(step(problem, precision, reduction="sum"), *expected)


@pytest.mark.parametrize(("dim", "precision"), CASES)
def test_rows_that_are_summed_again(dim, precision):
    """At t = 1, cosines near -1 in some rows and near 1 in others: one reference suits only the latter."""
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(1, dim, generator=g)
    weight = shared + 0.05 * torch.randn(170, dim, generator=g)
    sides = torch.tensor([-1.0, 1.0, -1.0, -1.0, 1.0])[:, None]
    embeddings = sides * shared + 0.05 * torch.randn(5, dim, generator=g)
    margin = CurricularFace(s=74.0)  # about the largest at which the reference is fixed
    assert Numbers(margin.s, 1.0, 0.0, precision, reweights=True).reference(len(weight)).fixed
    problem = (margin, embeddings, weight, torch.arange(5), {"t": torch.tensor(1.0)})
    expected = references(problem, precision, reduction="sum")
    hold(step(problem, precision, reduction="sum"), *expected)


@pytest.mark.parametrize(("dim", "precision"), CASES)
def test_gradients_that_push_the_loss_up(dim, precision):
    """Samples with a weight below 0 and of 0, whose coefficients have another sign, or none."""
    margin = CurricularFace()
    embeddings, weight, labels = inputs(margin, 39, 150, dim)
    shares, state = torch.tensor([1.0, -2.0, 0.0] * 13), {"t": torch.tensor(0.3)}
    x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    out = margin_loss(
        x, w, labels, margin, state=state, backend="triton", precision=precision, reduction="none"
    )
    (out.loss * shares).sum().backward()
    results = out.loss.detach(), x.grad, w.grad
    problem = (margin, embeddings, weight, labels, state)
    hold(results, *references(problem, precision, shares=shares))
