"""Which cure helps, and which loss is best: families of paired tests over the runs of a comparison.

A family is corrected as one: p by Holm, and intervals by Bonferroni, so that with 95 % all intervals of a
family hold at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from fusedface.recipes.compare.paired import PairedTest, Spread, holm, paired_test, t_interval
from fusedface.recipes.compare.texts import cure_of, loss_of

Accuracies = Mapping[str, Mapping[int, float]]
"""Final accuracies, as fractions, by label and by seed."""


@dataclass(frozen=True)
class Contrast:
    """The test of `first` less `second`, on the seeds that both have."""

    first: str
    second: str
    test: PairedTest
    joint: tuple[float, float] | None
    """Interval of the mean difference that holds at once with those of the family; None as `interval`."""


def family(accuracies: Accuracies, pairs: Iterable[tuple[str, str]]) -> list[Contrast]:
    """The contrasts of pairs of labels (first, second); pairs without a common seed are left out."""
    tests = [
        (first, second, paired_test(common))
        for first, second in pairs
        if (common := _common(accuracies[first], accuracies[second]))
    ]
    known = [i for i, (*_, test) in enumerate(tests) if test.p is not None]
    p_holm = dict(zip(known, holm([tests[i][2].p or 0.0 for i in known]), strict=True))
    return [
        Contrast(
            first,
            second,
            replace(test, p_holm=p_holm.get(i)),
            None if test.interval is None else t_interval(test.difference, len(known)),
        )
        for i, (first, second, test) in enumerate(tests)
    ]


def gains_of_cures(accuracies: Accuracies) -> list[Contrast]:
    """Each cure less the plain form of its loss."""
    labels = [label for label in accuracies if cure_of(label) and loss_of(label) in accuracies]
    return family(accuracies, [(label, loss_of(label)) for label in labels])


def among_plain(accuracies: Accuracies, reference: str) -> list[Contrast]:
    """The reference less each other loss without a cure."""
    labels = [label for label in accuracies if not cure_of(label) and label != reference]
    return family(accuracies, [(reference, label) for label in labels])


@dataclass(frozen=True)
class LeftOut:
    """The best variants of two losses by all seeds except one, and their difference on that one."""

    seed: int
    first: str
    second: str
    difference: float


def best_left_out(
    accuracies: Accuracies, first: Sequence[str], second: Sequence[str]
) -> list[LeftOut]:
    """The best variant of one loss less the best of another, each chosen on seeds that are not compared.

    Chosen on the seeds that it is reported on, the best of many looks better than it is. The differences
    share runs, so an interval by Student's t is only approximate.

    Args:
        accuracies: of all variants.
        first: labels of the variants of one loss.
        second: labels of those of the other.

    Returns:
        One for each seed that all variants have; none if these are fewer than three.
    """
    seeds = sorted(set.intersection(*(set(accuracies[label]) for label in (*first, *second))))
    if len(seeds) < 3:
        return []
    found = []
    for seed in seeds:
        others = [other for other in seeds if other != seed]
        one, two = (
            max(labels, key=lambda label: fmean(accuracies[label][other] for other in others))
            for labels in (first, second)
        )
        found.append(LeftOut(seed, one, two, accuracies[one][seed] - accuracies[two][seed]))
    return found


def spread_left_out(found: Sequence[LeftOut]) -> Spread | None:
    """Mean and spread of the differences."""
    return Spread.of([one.difference for one in found])


def _common(first: Mapping[int, float], second: Mapping[int, float]) -> list[tuple[float, float]]:
    return [(value, second[seed]) for seed, value in first.items() if seed in second]
