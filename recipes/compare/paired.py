"""Figures over seeds, and tests of two losses on the same seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

ROUNDING = 1e-9
"""Of accuracies: differences whose standard deviation is smaller are equal up to rounding."""


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation (None for one seed), and number of seeds."""

    mean: float
    std: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """The spread of values; None without values."""
        if not values:
            return None
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class PairedTest:
    """Final accuracy of the reference loss minus that of another loss, paired by seed."""

    difference: Spread
    p: float | None
    """p of Student's paired two-sided t-test; None with fewer than two seeds or without spread."""
    p_holm: float | None = None
    """p after Holm's correction for the number of losses."""
    interval: tuple[float, float] | None = None
    """95 % confidence interval of the mean difference, by Student's t; None as for p."""
    effect: float | None = None
    """Hedges' g of paired values: mean over standard deviation of the differences, times the factor that
    makes it unbiased for few seeds. None with fewer than three seeds or without spread."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values, in their order."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def paired_test(pairs: list[tuple[float, float]]) -> PairedTest:
    """Test pairs of final accuracies, (reference, other) of each seed."""
    difference = Spread.of([a - b for a, b in pairs])
    assert difference is not None  # there is at least one pair
    if difference.std is None or difference.std < ROUNDING:
        return PairedTest(difference, None)
    from scipy import stats  # takes a second to import

    ours, others = zip(*pairs, strict=True)
    p = float(stats.ttest_rel(ours, others).pvalue)
    mean, std, count = difference.mean, difference.std, difference.count
    return PairedTest(
        difference,
        None if math.isnan(p) else p,
        interval=t_interval(difference),
        effect=unbiased(count - 1) * mean / std if count > 2 else None,
    )


def t_interval(difference: Spread, num_tests: int = 1) -> tuple[float, float] | None:
    """The 95 % interval of a mean by Student's t; None for one seed.

    Args:
        difference: of at least two seeds.
        num_tests: intervals that hold at once with 95 % (Bonferroni).
    """
    if difference.std is None:
        return None
    from scipy import stats

    quantile = float(stats.t.ppf(1.0 - 0.025 / num_tests, difference.count - 1))
    half = quantile * difference.std / math.sqrt(difference.count)
    return difference.mean - half, difference.mean + half


def unbiased(freedom: int) -> float:
    """The factor that makes mean over standard deviation unbiased (Hedges 1981, eq. 6e).

    Args:
        freedom: degrees of freedom, at least 2.
    """
    logs = math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)
    return math.exp(logs) * math.sqrt(2 / freedom)
