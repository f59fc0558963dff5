"""What is measured in training: the figures of a batch, and which step was not finite."""

import math

import pytest
import torch

from fusedface.kernels import AdaFace, ArcFace, CurricularFace, SelfPaced, margin_loss
from fusedface.models import MarginHead
from fusedface.recipes.training.meter import FIGURES, Meter


def test_a_device_that_is_read_rarely_still_names_the_step():
    meter = Meter(num_classes=4)
    for loss in (1.0, math.inf, math.nan):
        weight, labels = torch.eye(4), torch.tensor([0])
        out = margin_loss(torch.eye(4)[:1], weight, labels, ArcFace())
        meter.add(
            meter.row(out._replace(loss=torch.tensor(loss)), torch.tensor(1.0), torch.tensor(1.0))
        )
    assert meter.first_non_finite(scaled=True) == 1  # one step before the newest
    assert meter.first_non_finite(scaled=False) == 1


def test_a_scaled_gradient_may_overflow():
    meter = Meter(num_classes=4)
    out = margin_loss(torch.eye(4)[:1], torch.eye(4), torch.tensor([0]), ArcFace())
    meter.add(meter.row(out, torch.tensor(math.inf), torch.tensor(1.0)))
    assert meter.first_non_finite(scaled=True) is None
    assert meter.first_non_finite(scaled=False) == 0


def test_figures_of_a_batch_worked_out_by_hand():
    """Two classes at right angles: embedding 0 is its own centre, embedding 1 the other's."""
    meter = Meter(num_classes=2)
    weight, labels = torch.eye(2), torch.tensor([0, 0])
    out = margin_loss(torch.eye(2), weight, labels, ArcFace(m=0.5, s=4.0))
    meter.add(meter.row(out, torch.tensor(3.0), torch.tensor(7.0)))
    figures = meter.take()
    assert figures["target_cosine"] == pytest.approx(0.5)
    assert figures["max_negative_cosine"] == pytest.approx(0.5)
    assert figures["accuracy"] == 0.5
    assert figures["hard_share"] == 0.5  # the second's only negative has cosine 1 > cos(pi/2 + m)
    assert (figures["grad_norm"], figures["grad_norm_head"]) == (3.0, 7.0)
    # Sample 0: T = cos m against N = 0, nothing hard. Sample 1: T = -sin m against N = 1.
    assert figures["loss_easy"] == pytest.approx(math.log1p(math.exp(-4 * math.cos(0.5))), rel=1e-5)
    assert figures["loss_hard"] == pytest.approx(math.log1p(math.exp(4 * (1 + math.sin(0.5)))))
    assert figures["target_cosine_p05"] == pytest.approx(0.05)
    assert figures["target_cosine_p95"] == pytest.approx(0.95)
    assert figures["max_negative_cosine_max"] == pytest.approx(1.0)
    assert "t" not in figures  # ArcFace has none
    assert meter.rows == []


@pytest.mark.parametrize(
    ("margin", "options"),
    [(CurricularFace(), {}), (AdaFace(), {}), (ArcFace(), {"weighting": SelfPaced()})],
    ids=["t", "averages", "bound"],
)
def test_every_state_is_measured_by_its_name(margin, options):
    head = MarginHead(8, 5, margin, **options)
    meter = Meter(num_classes=5, state_names=tuple(head.state))
    out = head(torch.eye(8)[:3], torch.tensor([0, 1, 2]))
    meter.add(meter.row(out, torch.tensor(1.0), torch.tensor(1.0)))
    figures = meter.take()
    assert head.state
    for name, value in head.state.items():
        assert figures[name] == pytest.approx(value.item())


@pytest.mark.parametrize("states", [("t",), (), ("norm_mean", "norm_std")], ids=str)
def test_measurements_of_an_older_version_go_on(states):
    """They had a column of t for every loss, NaN where it had none."""
    meter = Meter(num_classes=5, state_names=states)
    rows = torch.arange(2.0 * (len(FIGURES) + 1)).view(2, -1)
    meter.restore(rows, torch.device("cpu"))
    figures = meter.take()
    assert figures["loss"] == rows[:, 0].mean()
    assert figures["modulation_max"] == rows[:, -2].mean()
    assert set(figures) == {*FIGURES, *(("t",) if states == ("t",) else ())}
