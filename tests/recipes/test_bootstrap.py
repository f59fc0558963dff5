"""Bootstrap intervals: each draw against copied pairs, intervals against what is known to be true."""

import numpy as np
import pytest

from fusedface.recipes.evaluation import bootstrap as module
from fusedface.recipes.evaluation.bootstrap import _Sample, bootstrap, num_draws
from fusedface.recipes.evaluation.rates import tar_at_far, threshold_at_far
from fusedface.recipes.evaluation.scores import PairScores, all_pairs, unit

RATES = (0.1, 0.01)


def people_scores(rng, num_people=12, images=3, dim=6, spread=0.7):
    """Scores of all pairs of images around their people's centres."""
    people = np.repeat(np.arange(num_people), images)
    centres = rng.normal(size=(num_people, dim))
    return all_pairs(
        unit(centres[people] + spread * rng.normal(size=(len(people), dim))), people
    ), people


@pytest.mark.parametrize("by_person", [True, False])
def test_a_draw_is_its_pairs_copied(by_person):
    rng = np.random.default_rng(0)
    scores, people = people_scores(rng)
    scores.cosine[:] = scores.cosine.round(1)  # many equal scores
    units = people if by_person else np.arange(len(people))
    sample = _Sample(scores, units, by_person)
    for _ in range(20):
        times = np.bincount(
            rng.integers(units.max() + 1, size=units.max() + 1), minlength=units.max() + 1
        )
        copies = []
        for one, other, same in zip(scores.first, scores.second, scores.same, strict=True):
            single = by_person and same
            copies.append(times[units[one]] * (1 if single else times[units[other]]))
        genuine = np.repeat(scores.cosine, copies * scores.same)
        impostor = np.repeat(scores.cosine, copies * ~scores.same)
        for far, (threshold, tar) in zip(RATES, sample.figures(times, RATES), strict=True):
            assert threshold == threshold_at_far(impostor, far)
            assert tar == pytest.approx(tar_at_far(genuine, impostor, far))


def test_draws_without_a_kind_of_pair_are_left_out():
    """Two people: half of the draws have one of them twice, and no impostor pair."""
    first, second = np.array([0, 0, 2]), np.array([1, 2, 3])
    same, cosine = np.array([True, False, True]), np.array([0.9, 0.1, 0.8])
    scores = PairScores(first, second, same, cosine)
    (spread,) = bootstrap(scores, 4, np.array([0, 0, 1, 1]), [1.0])
    assert (spread.threshold.low, spread.threshold.high) == (0.1, 0.1)
    assert (spread.tar.low, spread.tar.high) == (1.0, 1.0)


def test_the_interval_holds_the_true_threshold(monkeypatch):
    """People of a known distribution: 19 of 20 intervals should hold its threshold."""
    monkeypatch.setattr(module, "MOST_DRAWS", 200)
    rng = np.random.default_rng(1)
    population, _ = people_scores(rng, 700, 2)
    truth = threshold_at_far(population.impostor, 0.1)
    hits, widths, found = [], [], []
    for seed in range(60):
        scores, people = people_scores(rng, 40, 2)
        (spread,) = bootstrap(scores, len(people), people, [0.1], seed=seed)
        hits.append(spread.threshold.low <= truth <= spread.threshold.high)
        widths.append(spread.threshold.high - spread.threshold.low)
        found.append(threshold_at_far(scores.impostor, 0.1))
    assert (
        np.mean(hits) >= 0.88
    )  # 60 intervals of 95 %: fewer than 53 hits has a chance of 1 in 300
    # Twice 1.96 standard deviations of the thresholds themselves, and not much more.
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(found), rel=0.6)


def test_images_vary_less_than_people():
    """Where a person's images are alike, drawing images takes copies for news."""
    rng = np.random.default_rng(2)
    scores, people = people_scores(rng, 30, 6, spread=0.1)
    (by_people,) = bootstrap(scores, len(people), people, [0.1])
    (by_images,) = bootstrap(scores, len(people), None, [0.1])
    widths = [s.threshold.high - s.threshold.low for s in (by_people, by_images)]
    assert widths[0] > 1.5 * widths[1]


def test_the_same_seed_gives_the_same_interval():
    scores, people = people_scores(np.random.default_rng(3))
    assert bootstrap(scores, len(people), people, RATES) == bootstrap(
        scores, len(people), people, RATES
    )


def test_how_many_draws():
    assert [num_draws(n) for n in (0, 6000, 200_000, 500_000, 20_000_000)] == [
        1000,
        1000,
        1000,
        400,
        200,
    ]
