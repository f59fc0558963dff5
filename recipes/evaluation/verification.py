"""Figures of face verification from similarity scores and labels.

A genuine pair shows one person, an impostor pair two people. Higher scores mean more similar; a pair is
accepted if its score is strictly above a threshold.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from fusedface.recipes.evaluation.rates import area_under_roc, equal_error_rate, tar_at_far
from fusedface.recipes.evaluation.scores import PairScores, all_pairs, listed_pairs, unit

Scored = Literal["listed", "all"]
FALSE_ACCEPT_RATES = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True, kw_only=True)
class VerificationResult:
    """Figures of one network on one set; rates are fractions."""

    accuracy: float
    """Mean accuracy over the folds, each at the best threshold of the other folds."""
    accuracy_std: float
    """Standard deviation of the folds' accuracies (population)."""
    tar_at_far: dict[str, float]
    """True accept rate by false accept rate ("0.001"), for rates with enough impostor pairs."""
    auc: float
    """Area under the ROC: probability that a genuine pair scores above an impostor pair."""
    eer: float
    """Equal error rate: the rate at which false rejects and false accepts are equal."""
    rank1: float | None
    """Share of images whose nearest other image shows the same person; None with listed pairs only."""
    num_pairs: int
    """Number of pairs behind accuracy."""
    num_folds: int
    """Number of folds behind accuracy."""
    scored: Scored
    """The pairs behind tar_at_far and auc: the listed pairs, or all pairs of their images."""
    num_genuine: int
    """Number of genuine pairs behind tar_at_far and auc."""
    num_impostor: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def fold_accuracies(scores: np.ndarray, same: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Accuracy of each fold at the best threshold of all other folds (LFW's protocol).

    Thresholds lie midway between neighbouring scores of the other folds; of several equally good ones, the
    middle one is taken.

    Args:
        scores: (P,).
        same: (P,) bool.
        fold: (P,) integers, at least two different ones.

    Raises:
        ValueError: there are fewer than two folds.
    """
    folds = np.unique(fold)
    if len(folds) < 2:
        raise ValueError(f"fold accuracies need at least 2 folds, got {len(folds)}")
    accuracies = []
    for held_out in folds:
        test = fold == held_out
        threshold = best_threshold(scores[~test], same[~test])
        accuracies.append(np.mean((scores[test] > threshold) == same[test]))
    return np.array(accuracies)


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """The threshold with the fewest errors; if there are several, the middle one."""
    order = np.argsort(scores, kind="stable")
    ranked, genuine = scores[order], same[order]
    # Cut k rejects the k lowest scores. Errors are genuine pairs among these and impostors among the rest.
    errors = np.concatenate([[0], np.cumsum(genuine)]) + np.concatenate(
        [np.cumsum((~genuine)[::-1])[::-1], [0]]
    )
    cuttable = np.concatenate(
        [[True], ranked[1:] > ranked[:-1], [True]]
    )  # never between equal scores
    errors = np.where(cuttable, errors, len(scores) + 1)
    best = np.flatnonzero(errors == errors.min())
    cut = best[len(best) // 2]
    low = ranked[cut - 1] if cut > 0 else ranked[0] - 1.0
    high = ranked[cut] if cut < len(ranked) else ranked[-1] + 1.0
    middle = float((low + high) / 2)
    return middle if low <= middle < high else float(low)


def rank1(embeddings: np.ndarray, identities: np.ndarray) -> float | None:
    """Leave-one-out identification: share of images whose most similar other image shows the same person.

    Args:
        embeddings: (N, D), unit length.
        identities: (N,) integers.

    Returns:
        The share among images whose person has another image; None if there is no such image.
    """
    counts = np.bincount(identities)
    eligible = np.flatnonzero(counts[identities] > 1)
    hits = 0
    for start in range(0, len(eligible), 1024):  # (1024, N) scores at a time
        rows = eligible[start : start + 1024]
        scores = embeddings[rows] @ embeddings.T
        scores[np.arange(len(rows)), rows] = -np.inf
        hits += int((identities[scores.argmax(axis=1)] == identities[rows]).sum())
    return hits / len(eligible) if len(eligible) else None


def verify(
    embeddings: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    same: np.ndarray,
    fold: np.ndarray,
    identities: np.ndarray | None = None,
) -> tuple[VerificationResult, PairScores]:
    """All figures of one set.

    Accuracy uses the listed pairs. TAR@FAR, AUC and the ROC use all pairs of the images if `identities` is
    given, else the listed pairs. Rank-1 needs `identities`.

    Args:
        embeddings: (N, D); normalised here.
        first: (P,) indices of one image of each listed pair.
        second: (P,) indices of the other.
        same: (P,) bool.
        fold: (P,) integers.
        identities: (N,) integers, or None to score the listed pairs only.

    Returns:
        The figures, and the scores behind TAR@FAR, AUC and the ROC.
    """
    embeddings = unit(embeddings)
    listed = listed_pairs(embeddings, first, second, same)
    scored = listed if identities is None else all_pairs(embeddings, identities)
    genuine, impostor = scored.genuine, scored.impostor
    accuracies = fold_accuracies(listed.cosine, same, fold)
    rates = {f"{far:g}": tar_at_far(genuine, impostor, far) for far in FALSE_ACCEPT_RATES}
    result = VerificationResult(
        accuracy=float(accuracies.mean()),
        accuracy_std=float(accuracies.std()),
        tar_at_far={far: rate for far, rate in rates.items() if rate is not None},
        auc=area_under_roc(genuine, impostor),
        eer=equal_error_rate(genuine, impostor),
        rank1=None if identities is None else rank1(embeddings, identities),
        num_pairs=len(same),
        num_folds=len(accuracies),
        scored="listed" if identities is None else "all",
        num_genuine=len(genuine),
        num_impostor=len(impostor),
    )
    return result, scored
