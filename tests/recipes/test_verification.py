"""Verification figures against closed forms and hand-counted examples."""

import math

import numpy as np
import pytest

from fusedface.recipes.evaluation.rates import (
    area_under_roc,
    equal_error_rate,
    roc,
    tar_at_far,
    threshold_at_far,
)
from fusedface.recipes.evaluation.scores import all_pairs
from fusedface.recipes.evaluation.verification import best_threshold, fold_accuracies, rank1, verify


def phi(z):
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def test_two_gaussians():
    """Genuine N(d, 1), impostor N(0, 1): AUC = Phi(d / sqrt 2), accuracy at the middle Phi(d / 2)."""
    rng = np.random.default_rng(0)
    d, n = 2.0, 200_000
    genuine, impostor = rng.normal(d, 1, n), rng.normal(0, 1, n)
    assert area_under_roc(genuine, impostor) == pytest.approx(phi(d / math.sqrt(2)), abs=2e-3)
    assert tar_at_far(genuine, impostor, phi(-1.0)) == pytest.approx(phi(d - 1.0), abs=4e-3)
    assert equal_error_rate(genuine, impostor) == pytest.approx(phi(-d / 2), abs=2e-3)
    assert threshold_at_far(impostor, phi(-1.0)) == pytest.approx(1.0, abs=1e-2)
    scores = np.concatenate([genuine[:5000], impostor[:5000]])
    same = np.repeat([True, False], 5000)
    fold = np.tile(np.arange(10), 1000)
    assert fold_accuracies(scores, same, fold).mean() == pytest.approx(phi(d / 2), abs=0.01)


def test_tar_at_far_by_hand():
    genuine = np.array([0.9, 0.8, 0.55, 0.3])
    impostor = np.array([0.7, 0.5, 0.4, 0.2, 0.1, 0.0, -0.1, -0.2, -0.3, -0.4])
    # FAR 0.1 allows one impostor: the threshold is the second highest, 0.5, accepted strictly above.
    assert tar_at_far(genuine, impostor, 0.1) == 0.75
    assert tar_at_far(genuine, impostor, 0.2) == 0.75
    assert tar_at_far(genuine, impostor, 0.3) == 1.0
    assert tar_at_far(genuine, impostor, 0.05) is None  # half an impostor supports nothing
    assert (
        tar_at_far(np.array([0.5]), np.array([0.5, 0.5, 0.1, 0.0]), 0.25) == 0.0
    )  # a tie is no pass
    assert tar_at_far(genuine, impostor, 1.0) == 1.0


def test_the_threshold_is_an_impostor_score():
    impostor = np.array([0.1, 0.9, 0.5, 0.3])
    assert threshold_at_far(impostor, 0.25) == 0.5
    assert threshold_at_far(impostor, 0.6) == 0.3
    assert threshold_at_far(impostor, 1.0) == 0.1
    assert threshold_at_far(impostor, 0.2) is None


def test_equal_error_rate_by_hand():
    # Thresholds downwards: (far, frr) = (0, 1), (0, .5), (.5, .5): the curves meet at .5.
    assert equal_error_rate(np.array([0.9, 0.3]), np.array([0.6, 0.1])) == 0.5
    assert equal_error_rate(np.array([0.9, 0.8]), np.array([0.1, 0.0])) == 0.0
    assert equal_error_rate(np.array([0.1]), np.array([0.9])) == 1.0
    # (1/3, 0) follows (0, 1/4): they meet where 1/3 s = 1/4 (1 - s), s = 3/7, at 1/7.
    genuine, impostor = np.array([0.9, 0.8, 0.7, 0.5]), np.array([0.5, 0.2, 0.1])
    assert equal_error_rate(genuine, impostor) == pytest.approx(1 / 7)
    assert equal_error_rate(np.full(5, 0.5), np.full(9, 0.5)) == 0.5  # nothing is told apart


def test_far_that_rounds_below_its_rank():
    """0.3 * 10 is 2.9999999999999996 in floating point, and must still allow 3."""
    impostor = np.linspace(0, 1, 10)
    assert tar_at_far(np.array([0.7]), impostor, 0.1 * 3) == tar_at_far(
        np.array([0.7]), impostor, 0.3
    )


def test_roc_by_hand():
    far, tar = roc(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
    assert far.tolist() == [0.0, 0.0, 0.5, 1.0]
    assert tar.tolist() == [0.0, 0.5, 1.0, 1.0]
    assert area_under_roc(np.array([0.9, 0.5]), np.array([0.5, 0.1])) == 0.875  # a tie counts half
    assert area_under_roc(np.array([0.1]), np.array([0.9])) == 0.0


def test_best_threshold():
    assert best_threshold(
        np.array([0.1, 0.4, 0.6, 0.9]), np.array([0, 0, 1, 1], bool)
    ) == pytest.approx(0.5)
    assert best_threshold(np.array([0.2, 0.8]), np.array([1, 1], bool)) < 0.2  # accept all
    assert best_threshold(np.array([0.2, 0.8]), np.array([0, 0], bool)) >= 0.8  # reject all
    # Equal scores cannot be cut apart: 3 genuine and 1 impostor at 0.5 are all accepted.
    scores, same = np.array([0.5, 0.5, 0.5, 0.5, 0.1]), np.array([1, 1, 1, 0, 0], bool)
    assert 0.1 <= best_threshold(scores, same) < 0.5
    # Neighbouring floats: the threshold must not round up to the higher one.
    low, high = 0.5, np.nextafter(0.5, 1.0)
    threshold = best_threshold(np.array([low, high]), np.array([False, True]))
    assert low <= threshold < high


def test_the_middle_one_of_equally_good_thresholds():
    """Impostors and genuine pairs take turns: cutting after the 1st, 3rd or 5th errs twice each."""
    scores, same = np.arange(6) / 10, np.arange(6) % 2 == 1
    assert best_threshold(scores, same) == pytest.approx(0.25)


def test_a_score_at_the_threshold_is_rejected():
    """The threshold of fold 0 is .5, where an impostor pair lies and a genuine one."""
    scores = np.array([0.25, 0.75, 0.5, 0.5])
    same, fold = np.array([0, 1, 0, 1], bool), np.array([0, 0, 1, 1])
    assert best_threshold(scores[:2], same[:2]) == 0.5
    assert fold_accuracies(scores[:3], same[:3], fold[:3])[1] == 1.0
    assert fold_accuracies(scores[[0, 1, 3]], same[[0, 1, 3]], fold[:3])[1] == 0.0


def test_folds_use_the_threshold_of_the_others():
    """Fold 1 alone would be perfect at another threshold; with that of fold 0 it is half right."""
    scores = np.array([0.9, 0.8, 0.2, 0.1, 0.45, 0.44, 0.3, 0.2])
    same = np.array([1, 1, 0, 0, 1, 1, 0, 0], bool)
    fold = np.array([0] * 4 + [1] * 4)
    accuracies = fold_accuracies(scores, same, fold)
    assert accuracies.tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match="at least 2 folds"):
        fold_accuracies(scores, same, np.zeros(8))


def test_rank1_by_hand():
    embeddings = np.array([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0], [0.1, 0.99], [0.7, 0.7]])
    identities = np.array([0, 0, 1, 0, 2])  # 3 looks like 2; 2 and 4 have no other image
    assert rank1(embeddings, identities) == pytest.approx(2 / 3)
    assert rank1(embeddings[:2], np.array([0, 1])) is None


def test_all_pairs():
    embeddings = np.eye(4)
    scored = all_pairs(embeddings, np.array([0, 0, 1, 1]))
    assert (len(scored.genuine), len(scored.impostor)) == (2, 4)


def test_verify_normalises_and_counts():
    embeddings = np.array([[2.0, 0.0], [5.0, 0.1], [0.0, 3.0], [0.1, 1.0]] * 2)
    first, second = np.array([0, 0, 4, 4]), np.array([1, 2, 5, 6])
    same, fold = np.array([1, 0, 1, 0], bool), np.array([0, 0, 1, 1])
    result, _ = verify(embeddings, first, second, same, fold, np.array([0, 0, 1, 1] * 2))
    assert (result.accuracy, result.accuracy_std, result.auc, result.rank1) == (1.0, 0.0, 1.0, 1.0)
    assert (result.num_genuine, result.num_impostor) == (12, 16)
    assert (result.num_folds, result.scored) == (2, "all")
    assert result.tar_at_far == {"0.1": 1.0}
    listed, _ = verify(embeddings, first, second, same, fold)
    assert (listed.num_genuine, listed.num_impostor, listed.rank1) == (2, 2, None)
    assert (listed.num_folds, listed.scored) == (2, "listed")
