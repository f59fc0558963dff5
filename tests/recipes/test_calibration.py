"""Cosine to probability: closed forms, and a second way to the maximum."""

import math

import numpy as np
import pytest
from scipy.special import expit

from fusedface.recipes.evaluation import calibration as module
from fusedface.recipes.evaluation.calibration import (
    Calibration,
    fit_calibration,
    log_likelihood_ratio_cost,
    observed_shares,
)


@pytest.mark.parametrize("numbers", [(50_000, 50_000), (3_000, 300_000)])
def test_two_gaussians(numbers):
    """N(a, s) against N(b, s): slope (a - b) / s^2, probability 1/2 in the middle, whatever the numbers."""
    rng = np.random.default_rng(0)
    a, b, s = 0.6, 0.1, 0.15
    genuine, impostor = rng.normal(a, s, numbers[0]), rng.normal(b, s, numbers[1])
    fitted = fit_calibration(genuine, impostor)
    assert fitted.slope == pytest.approx((a - b) / s**2, rel=0.05)
    assert -fitted.intercept / fitted.slope == pytest.approx((a + b) / 2, abs=5e-3)


def test_two_cosines():
    """Pairs have one of two cosines: the curve goes through both shares (Platt's targets, by hand)."""
    genuine = np.repeat([0.8, 0.2], [30, 10])
    impostor = np.repeat([0.8, 0.2], [4, 96])
    fitted = fit_calibration(genuine, impostor)
    for cosine, ours, others in ((0.8, 30 / 40, 4 / 100), (0.2, 10 / 40, 96 / 100)):
        expected = (ours * 41 / 42 + others * 1 / 102) / (ours + others)
        assert fitted.probability(cosine) == pytest.approx(expected, abs=1e-7)


def test_the_maximum_of_the_likelihood():
    """By bisection on the derivative in the intercept, for a grid of slopes: none is better."""
    rng = np.random.default_rng(1)
    genuine, impostor = rng.normal(0.5, 0.2, 40), rng.normal(0.1, 0.1, 70)
    fitted = fit_calibration(genuine, impostor)

    def loss(slope, intercept):
        total = 0.0
        for scores, target in ((genuine, 41 / 42), (impostor, 1 / 72)):
            p = expit(slope * scores + intercept)
            total -= (target * np.log(p) + (1 - target) * np.log(1 - p)).mean() / 2
        return total

    least = loss(fitted.slope, fitted.intercept)
    for slope in fitted.slope * np.linspace(0.9, 1.1, 5):
        for intercept in fitted.intercept * np.linspace(0.9, 1.1, 5):
            assert loss(slope, intercept) >= least


def test_kinds_that_do_not_overlap_give_a_finite_curve():
    fitted = fit_calibration(np.array([0.8, 0.9]), np.array([0.0, 0.1, 0.2]))
    assert math.isfinite(fitted.slope)
    assert fitted.probability(0.9) == pytest.approx(3 / 4, abs=0.05)  # Platt's (2 + 1) / (2 + 2)
    assert fit_calibration(np.full(3, 0.5), np.full(4, 0.5)) == Calibration(0.0, 0.0)


def test_another_share():
    curve = Calibration(10.0, -3.0)
    odds = math.exp(10 * 0.4 - 3) * 0.01 / 0.99
    assert curve.probability(0.4, share=0.01) == pytest.approx(odds / (1 + odds))
    assert curve.probability(0.3) == pytest.approx(0.5)


def test_many_scores_are_thinned_evenly(monkeypatch):
    rng = np.random.default_rng(2)
    genuine, impostor = rng.normal(0.5, 0.1, 20_000), rng.normal(0.1, 0.1, 50_000)
    whole = fit_calibration(genuine, impostor)
    monkeypatch.setattr(module, "MOST_SCORES", 5_000)
    thinned = fit_calibration(genuine, impostor)
    assert thinned.slope == pytest.approx(whole.slope, rel=0.01)
    assert thinned.intercept == pytest.approx(whole.intercept, rel=0.01)


def test_cllr():
    nothing, genuine, impostor = Calibration(0.0, 0.0), np.array([0.3, 0.5]), np.array([0.1])
    assert log_likelihood_ratio_cost(nothing, genuine, impostor) == pytest.approx(1.0)
    curve = Calibration(1.0, 0.0)
    by_hand = (math.log2(1 + math.exp(-0.3)) + math.log2(1 + math.exp(-0.5))) / 4
    by_hand += math.log2(1 + math.exp(0.1)) / 2
    assert log_likelihood_ratio_cost(curve, genuine, impostor) == pytest.approx(by_hand)


def test_observed_shares():
    """Three of four genuine pairs and one of ten impostor pairs lie in the upper bin."""
    genuine, impostor = np.repeat([1.0, 0.0], [3, 1]), np.repeat([1.0, 0.0], [1, 9])
    middles, shares = observed_shares(genuine, impostor)
    assert middles == pytest.approx([0.02, 0.98])
    assert shares == pytest.approx([0.25 / (0.25 + 0.9), 0.75 / (0.75 + 0.1)])
