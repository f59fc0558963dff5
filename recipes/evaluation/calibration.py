"""Calibration of cosines to probabilities: logistic regression by maximum likelihood.

    p = 1 / (1 + exp(-(slope c + intercept)))

Genuine and impostor pairs have half of the total weight each, whatever their numbers. So p applies if half
of all comparisons are of one person. If that share is q, replace slope c + intercept by
slope c + intercept + log(q / (1 - q)). The targets are those of Platt, "Probabilistic outputs for support
vector machines", 1999, section 2.2. They keep the slope finite if the two kinds do not overlap.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

MOST_SCORES = 200_000  # of each kind; of more scores, evenly spaced ones of their order are used
NUM_BINS = 25


@dataclass(frozen=True)
class Calibration:
    """A fitted curve."""

    slope: float
    intercept: float

    def probability(self, cosine: np.ndarray | float, share: float = 0.5) -> np.ndarray:
        """Probability that a pair is of one person.

        Args:
            cosine: cosines, any shape.
            share: share of all comparisons that are of one person, in (0, 1).
        """
        return expit(self.slope * np.asarray(cosine) + self.intercept + logit(share))


def fit_calibration(genuine: np.ndarray, impostor: np.ndarray) -> Calibration:
    """Fit the curve to genuine scores (G,) and impostor scores (N,), at least one of each."""
    targets = (len(genuine) + 1) / (len(genuine) + 2), 1 / (len(impostor) + 2)
    genuine, impostor = _thinned(genuine), _thinned(impostor)
    cosine = np.concatenate([genuine, impostor])
    target = np.repeat(targets, [len(genuine), len(impostor)])
    weight = np.repeat([0.5 / len(genuine), 0.5 / len(impostor)], [len(genuine), len(impostor)])
    middle, spread = float(cosine.mean()), float(cosine.std())
    if spread < 1e-12:  # all cosines are equal
        return Calibration(0.0, 0.0)
    x = np.stack([(cosine - middle) / spread, np.ones_like(cosine)])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = w @ x
        error = expit(z) - target
        return float(weight @ (np.logaddexp(0, z) - target * z)), x @ (weight * error)

    def curvature(w: np.ndarray) -> np.ndarray:
        p = expit(w @ x)
        return (x * (weight * p * (1 - p))) @ x.T

    found = minimize(
        loss, np.zeros(2), jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-9}
    )
    slope = float(found.x[0]) / spread
    return Calibration(slope, float(found.x[1]) - slope * middle)


def log_likelihood_ratio_cost(
    calibration: Calibration, genuine: np.ndarray, impostor: np.ndarray
) -> float:
    """Cllr in bits: 0 if every probability is certain and right, 1 if none carries information.

    Brummer and du Preez, "Application-independent evaluation of speaker detection", 2006.
    """
    surprise = [
        np.logaddexp(0, sign * (calibration.slope * scores + calibration.intercept)).mean()
        for sign, scores in ((-1, genuine), (1, impostor))
    ]
    return float(sum(surprise) / (2 * np.log(2)))


def observed_shares(genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of genuine pairs in bins of the cosine; both kinds have equal total weight.

    Returns:
        Middles of up to 25 non-empty bins of equal width (K,), and the share in each (K,).
    """
    edges = np.histogram_bin_edges(np.concatenate([genuine, impostor]), NUM_BINS)
    ours, others = (np.histogram(s, edges)[0] / max(len(s), 1) for s in (genuine, impostor))
    filled = ours + others > 0
    middles = (edges[1:] + edges[:-1]) / 2
    return middles[filled], ours[filled] / (ours + others)[filled]


def _thinned(scores: np.ndarray) -> np.ndarray:
    if len(scores) <= MOST_SCORES:
        return scores
    return np.sort(scores)[np.linspace(0, len(scores) - 1, MOST_SCORES).round().astype(int)]
