"""Thresholds of one network on one set: where to accept, how sure that is, and what a cosine means."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fusedface.recipes.evaluation.bootstrap import Interval, bootstrap
from fusedface.recipes.evaluation.calibration import (
    Calibration,
    fit_calibration,
    log_likelihood_ratio_cost,
)
from fusedface.recipes.evaluation.scores import PairScores
from fusedface.recipes.evaluation.verification import (
    Scored,
    allowed_impostors,
    best_threshold,
    tar_at_far,
    threshold_at_far,
)

RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
ENOUGH = 30
"""False accepts that a rate should rest on: with 30 it lies within 30 % of the true one in nine cases of
ten (Doddington et al., "The NIST speaker recognition evaluation", Speech Communication 2000)."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Where to accept at one false accept rate; a pair is accepted strictly above the threshold."""

    far: float
    threshold: float
    threshold_interval: Interval
    """The 95 % interval; see `bootstrap`."""
    tar: float
    """True accept rate there."""
    tar_interval: Interval
    num_allowed: int
    """Impostor pairs that the rate lets through."""

    @property
    def is_supported(self) -> bool:
        """Whether there were impostor pairs enough to know the threshold."""
        return self.num_allowed >= ENOUGH


@dataclass(frozen=True, kw_only=True)
class SetThresholds:
    """All that one set says of a network's thresholds."""

    points: tuple[OperatingPoint, ...]
    """By falling rate, as far as impostor pairs reach."""
    best: float
    """The threshold with the fewest errors on the listed pairs."""
    calibration: Calibration
    cllr: float
    """What the calibrated scores leave unsaid, bits; 0 is all, 1 is nothing said."""
    scored: Scored
    """Whether points and calibration rest on the listed pairs or on all pairs of their images."""
    num_genuine: int
    num_impostor: int
    num_images: int
    num_people: int | None
    drawn: Literal["people", "images"]
    """What the intervals' bootstrap draws."""

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
    """What a threshold from elsewhere does on a set; rates are fractions."""

    accuracy: float
    """On the listed pairs."""
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
        scores: what rates and calibration rest on, listed pairs or all, both kinds among them.
        listed: the listed pairs.
        num_images: N, of the set.
        people: (N,) integers, who is on each image, where known.
        scored: which pairs `scores` are.
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
    assert rate is not None  # both kinds are there, and the rate is allowed
    return OperatingPoint(
        far=far,
        threshold=at,
        threshold_interval=threshold,
        tar=rate,
        tar_interval=tar,
        num_allowed=allowed_impostors(len(impostor), far),
    )
