"""Thresholds of one network on one set, with their intervals and the calibration of cosines."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fusedface.recipes.evaluation.bootstrap import Interval, bootstrap
from fusedface.recipes.evaluation.calibration import (
    Calibration,
    fit_calibration,
    log_likelihood_ratio_cost,
)
from fusedface.recipes.evaluation.rates import allowed_impostors, tar_at_far, threshold_at_far
from fusedface.recipes.evaluation.scores import PairScores
from fusedface.recipes.evaluation.verification import Scored, best_threshold

RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
ENOUGH = 30
"""Number of false accepts that a rate needs. With 30, the measured rate is within 30 % of the true rate in
90 % of cases (Doddington et al., "The NIST speaker recognition evaluation", Speech Communication 2000)."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """The threshold at one false accept rate; a pair is accepted if its cosine is strictly above it."""

    far: float
    threshold: float
    threshold_interval: Interval
    """The 95 % interval; see `bootstrap`."""
    tar: float
    """True accept rate at the threshold."""
    tar_interval: Interval
    num_allowed: int
    """Number of impostor pairs that the rate allows."""

    @property
    def is_supported(self) -> bool:
        """Whether the rate allows enough impostor pairs (ENOUGH) for a reliable threshold."""
        return self.num_allowed >= ENOUGH


@dataclass(frozen=True, kw_only=True)
class SetThresholds:
    """All thresholds of a network that were measured on one set."""

    points: tuple[OperatingPoint, ...]
    """Points with falling rate, as far as the number of impostor pairs allows."""
    best: float
    """The threshold with the fewest errors on the listed pairs."""
    calibration: Calibration
    cllr: float
    """Cllr of the calibrated scores in bits: 0 is perfect, 1 is no information."""
    scored: Scored
    """The pairs behind points and calibration: the listed pairs, or all pairs of their images."""
    num_genuine: int
    num_impostor: int
    num_images: int
    num_people: int | None
    drawn: Literal["people", "images"]
    """The units that the bootstrap of the intervals draws."""

    def at(self, far: float) -> OperatingPoint:
        """The point of a false accept rate.

        Raises:
            ValueError: it was not measured.
        """
        for point in self.points:
            if np.isclose(point.far, far, rtol=1e-6):
                return point
        known = ", ".join(f"{point.far:g}" for point in self.points) or "none"
        raise ValueError(
            f"no threshold is known at a false accept rate of {far:g}: with {self.num_impostor:,} impostor "
            f"pairs it was measured at {known}"
        )


@dataclass(frozen=True, kw_only=True)
class FixedFigures:
    """Figures of a set at a threshold from other data; rates are fractions."""

    accuracy: float
    """Accuracy on the listed pairs."""
    far: float
    tar: float


def set_thresholds(
    scores: PairScores,
    listed: PairScores,
    num_images: int,
    people: np.ndarray | None,
    scored: Scored = "listed",
) -> SetThresholds:
    """Measure the thresholds of a set.

    Args:
        scores: the scores for rates and calibration, with genuine and impostor pairs among them.
        listed: the scores of the listed pairs.
        num_images: N, the number of images of the set.
        people: (N,) integers, the person on each image; None if unknown.
        scored: whether `scores` are of the listed pairs or of all pairs.
    """
    genuine, impostor = scores.genuine, scores.impostor
    rates = [far for far in RATES if allowed_impostors(len(impostor), far)]
    spreads = bootstrap(scores, num_images, people, rates) if rates else []
    calibration = fit_calibration(genuine, impostor)
    return SetThresholds(
        points=tuple(
            _point(genuine, impostor, far, spread.threshold, spread.tar)
            for far, spread in zip(rates, spreads, strict=True)
        ),
        best=best_threshold(listed.cosine, listed.same),
        calibration=calibration,
        cllr=log_likelihood_ratio_cost(calibration, genuine, impostor),
        scored=scored,
        num_genuine=len(genuine),
        num_impostor=len(impostor),
        num_images=num_images,
        num_people=None if people is None else len(np.unique(people)),
        drawn="images" if people is None else "people",
    )


def at_fixed_threshold(scores: PairScores, listed: PairScores, threshold: float) -> FixedFigures:
    """Rates of `scores` and accuracy of `listed` at a threshold that was chosen on other data."""
    return FixedFigures(
        accuracy=float(np.mean((listed.cosine > threshold) == listed.same)),
        far=float(np.mean(scores.impostor > threshold)),
        tar=float(np.mean(scores.genuine > threshold)),
    )


def _point(
    genuine: np.ndarray, impostor: np.ndarray, far: float, threshold: Interval, tar: Interval
) -> OperatingPoint:
    at, rate = threshold_at_far(impostor, far), tar_at_far(genuine, impostor, far)
    assert at is not None
    assert rate is not None  # both kinds exist, and the rate is supported
    return OperatingPoint(
        far=far,
        threshold=at,
        threshold_interval=threshold,
        tar=rate,
        tar_interval=tar,
        num_allowed=allowed_impostors(len(impostor), far),
    )
