"""Bootstrap intervals of thresholds and rates, from resampled people and their pairs.

Pairs are not independent samples: a person who looks like many others is in many pairs. So people are drawn
with replacement, as many as there are. The weight of an impostor pair is the product of the counts of its
two people; the weight of a genuine pair is the count of its person. If the people of a set are unknown (a
.bin), its images are drawn instead, and the weight of every pair is the product of its two images' counts.

Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007: on average such intervals are not too
narrow, whatever the spread from people and from pairs. They are too wide by up to the square root of 3 if
every person is in one pair only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fusedface.recipes.evaluation.rates import allowed_impostors
from fusedface.recipes.evaluation.scores import PairScores

LEVEL = 0.95
MOST_DRAWS, FEWEST_DRAWS = 1000, 200
MOST_WEIGHTS = 200_000_000  # of pairs over all draws; 100 million take about a second


@dataclass(frozen=True)
class Interval:
    """The interval of a figure that holds 95 % of the draws, with 2.5 % on each side."""

    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Intervals of the threshold at a false accept rate and of the true accept rate there."""

    threshold: Interval
    tar: Interval


def num_draws(num_pairs: int) -> int:
    """1,000 draws; fewer for more than 200,000 pairs, but at least 200."""
    return int(np.clip(MOST_WEIGHTS // max(num_pairs, 1), FEWEST_DRAWS, MOST_DRAWS))


def bootstrap(
    scores: PairScores,
    num_images: int,
    people: np.ndarray | None,
    rates: Sequence[float],
    *,
    seed: int = 0,
) -> list[Spread]:
    """Intervals for each false accept rate.

    Args:
        scores: P pairs with genuine and impostor pairs among them.
        num_images: N, the number of images of the set.
        people: (N,) integers, the person on each image; None if unknown, then images are drawn.
        rates: false accept rates.
        seed: seed of the draws.
    """
    units = np.arange(num_images) if people is None else np.unique(people, return_inverse=True)[1]
    sample = _Sample(scores, units, by_person=people is not None)
    rng = np.random.default_rng(seed)
    found = np.array(list(sample.draws(num_draws(len(scores.same)), rates, rng)))  # (K, rates, 2)
    edges = np.nanquantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)  # (2, rates, 2)
    return [
        Spread(*(Interval(float(low), float(high)) for low, high in edges[:, i].T))
        for i in range(len(rates))
    ]


class _Sample:
    """Scores sorted once from the highest, so that each draw needs only cumulative sums."""

    def __init__(self, scores: PairScores, units: np.ndarray, by_person: bool) -> None:
        self.num_units, self.by_person = int(units.max()) + 1, by_person
        self.impostor, self.impostor_units = self._sorted(scores, ~scores.same, units)
        self.genuine, self.genuine_units = self._sorted(scores, scores.same, units)

    @staticmethod
    def _sorted(scores: PairScores, which: np.ndarray, units: np.ndarray):
        chosen = np.flatnonzero(which)
        order = chosen[np.argsort(-scores.cosine[chosen], kind="stable")]
        return scores.cosine[order], (units[scores.first[order]], units[scores.second[order]])

    def draws(
        self, number: int, rates: Sequence[float], rng: np.random.Generator
    ) -> Iterator[list[tuple[float, float]]]:
        """Threshold and true accept rate at each rate, for each draw; NaN if one kind has no pair."""
        for _ in range(number):
            times = np.bincount(
                rng.integers(self.num_units, size=self.num_units), minlength=self.num_units
            )
            yield self.figures(times, rates)

    def figures(self, times: np.ndarray, rates: Sequence[float]) -> list[tuple[float, float]]:
        """The same figures if person (or image) u was drawn times[u] times; `times` is (U,)."""
        one, other = self.impostor_units
        impostor = np.cumsum(times[one] * times[other])
        one, other = self.genuine_units
        genuine = np.cumsum(times[one] if self.by_person else times[one] * times[other])
        if not impostor[-1] or not genuine[-1]:
            return [(np.nan, np.nan)] * len(rates)
        return [self._at(impostor, genuine, far) for far in rates]

    def _at(self, impostor: np.ndarray, genuine: np.ndarray, far: float) -> tuple[float, float]:
        """From cumulative weights; the threshold is the first impostor score that the rate excludes."""
        total = int(impostor[-1])
        allowed = min(allowed_impostors(total, far), total - 1)
        threshold = self.impostor[np.searchsorted(impostor, allowed, side="right")]
        above = np.searchsorted(-self.genuine, -threshold, side="left")  # strictly above
        accepted = genuine[above - 1] if above else 0
        return float(threshold), float(accepted / genuine[-1])
