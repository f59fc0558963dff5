"""The closed forms of sinking against what is known otherwise: angles, integrals, autograd."""

import math

import pytest
import torch

from fusedface.kernels import (
    LDAM,
    MARGINS,
    ArcFace,
    CosFace,
    CurricularFace,
    MVArc,
    NormFace,
    margin_loss,
)
from fusedface.kernels.sinking import (
    Moment,
    common_component,
    learns_above,
    pace,
    steps_down,
    turning_cosine,
)

COS_M = math.cos(0.5)


@pytest.mark.parametrize(
    ("margin", "gap"),
    [
        (NormFace(), 0.0),
        (CosFace(m=0.35), 0.0),
        (ArcFace(m=0.5), 1.0 - COS_M),
        (MVArc(m=0.5, t=1.2), 1.2 - COS_M),
        (CurricularFace(m=0.5), -COS_M),
    ],
)
def test_the_gap_where_all_cosines_are_0(margin, gap):
    assert margin.slope_gap() == pytest.approx(gap, abs=1e-12)


def test_the_gap_at_other_cosines_and_states():
    """T' = sin(theta + m) / sin theta; N' = t + 2 c for CurricularFace; straight-through has T' = 1."""
    theta = math.acos(-0.5)
    slope = math.sin(theta + 0.5) / math.sin(theta)
    assert ArcFace().slope_gap(-0.5) == pytest.approx(1.0 - slope)
    assert CurricularFace().slope_gap(-0.5, {"t": 0.3}) == pytest.approx(0.3 - 1.0 - slope)
    straight = MVArc(t=1.2).slope_gap(-0.5, target_gradient="straight_through")
    assert straight == pytest.approx(0.2)
    assert ArcFace().slope_gap(-0.95) == pytest.approx(0.0)  # past pi - m


@pytest.mark.parametrize("name", sorted(MARGINS))
def test_it_is_the_slope_of_the_collapse_loss(name):
    """By finite differences, for every loss: s (N' - T') is what a network of equal cosines feels."""
    margin = MARGINS[name]()
    if isinstance(margin, LDAM):
        margin = margin.with_class_counts((5, 50, 9))
    for cosine in (-0.4, 0.1):
        low, high = (margin.collapse_loss(3, cosine + h) for h in (-1e-5, 1e-5))
        # softplus has the slope sigmoid, 1 at such losses up to 1e-4.
        expected = (high - low) / 2e-5 / margin.s
        found = margin.slope_gap(cosine, num_classes=3)
        assert found == pytest.approx(expected, abs=2e-3), cosine


def test_the_turn_of_no_return():
    assert turning_cosine(ArcFace(m=0.5)) == pytest.approx(math.sin(0.25))
    assert turning_cosine(ArcFace(m=0.35)) == pytest.approx(math.sin(0.175))
    cot = (1.2 - COS_M) / math.sin(0.5)
    assert turning_cosine(MVArc(m=0.5, t=1.2)) == pytest.approx(cot / math.hypot(1.0, cot))
    for margin in (NormFace(), CosFace(), CurricularFace()):
        assert turning_cosine(margin) is None
        assert learns_above(margin) is None
    assert (
        turning_cosine(MVArc(t=1.2), "straight_through") is None
    )  # N' = t above T' = 1 everywhere
    assert learns_above(ArcFace()) == pytest.approx(0.061, abs=5e-4)
    assert learns_above(ArcFace(), "straight_through") is None


@pytest.mark.parametrize("m", [0.5, 0.35])
def test_the_way_down_takes_what_the_integral_says(m):
    """With a = 1, c = cos theta: d theta / dt = -2 beta sin(m/2) cos(theta + m/2), integrated by hand."""

    def clock(cosine):
        phi = math.acos(cosine) + m / 2
        return -math.log(abs(1 / math.cos(phi) + math.tan(phi))) / (2 * math.sin(m / 2))

    for end in (-0.1, -0.3, -0.5):
        expected = (clock(end) - clock(0.0)) / 0.01
        assert steps_down(ArcFace(m=m), 0.0, end, 0.01) == pytest.approx(expected, rel=1e-4)
    assert steps_down(NormFace(), 0.0, -0.3, 1.0) is None


def test_one_step_moves_the_centres_as_the_law_says():
    """Plain gradient descent on the class centres, embeddings about one direction: by autograd.

    The law lets every negative be pushed alike, as a small scale does. With s = 64 the hardest are pushed,
    which lie towards the embeddings; of random centres the law then says 1.7 times too much.
    """
    torch.manual_seed(0)
    C, D, B, lr, margin = 200, 64, 400, 1e-4, ArcFace(s=4.0)
    direction = torch.nn.functional.normalize(torch.randn(D, dtype=torch.float64), dim=0)
    noise = torch.randn(B, D, dtype=torch.float64) / math.sqrt(D)
    embeddings = direction + noise
    centres = torch.randn(C, D, dtype=torch.float64) - 0.3 * direction
    centres = (2.5 * torch.nn.functional.normalize(centres, dim=1)).requires_grad_()
    labels = torch.arange(B) % C
    out = margin_loss(embeddings, centres, labels, margin)
    out.loss.backward()
    spread = torch.nn.functional.normalize(embeddings, dim=1).mean(0)
    e = spread / spread.norm()

    def component(weight):
        return -(torch.nn.functional.normalize(weight, dim=1).mean(0) @ e).item()

    before = component(centres.detach())
    after = component(centres.detach() - lr * centres.grad)
    gap = margin.slope_gap(out.target_cosine.mean().item())
    beta = pace(margin.s, C, 2.5, lr, momentum=0.0)
    moments = [
        Moment(0, 0.0, spread.norm().item(), 0.0),
        Moment(1, gap, spread.norm().item(), beta),
    ]
    predicted = common_component(moments, before)[-1] - before
    assert after - before == pytest.approx(predicted, rel=0.1)


def test_the_pace():
    """0.1 / 0.1 * 64 / (1000 * 2.5^2)."""
    assert 1.0 / pace(64.0, 1000, 2.5, 0.1, 0.9) == pytest.approx(97.7, abs=0.1)


def test_counts_of_images_change_no_slope():
    """LDAM's margin differs between classes, its T' = 1 does not: known counts or none."""
    assert LDAM().slope_gap() == LDAM(class_counts=(9, 1, 3)).slope_gap() == 0.0
