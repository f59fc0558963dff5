"""Figures of face verification from similarity scores and labels; NumPy alone.

A genuine pair is of one person, an impostor pair of two. Higher scores mean more alike; a pair is
accepted when its score lies strictly above a threshold.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Scored = Literal["listed", "all"]
FALSE_ACCEPT_RATES = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True, kw_only=True)
class VerificationResult:
    """Figures of one network on one set; rates are fractions."""

    accuracy: float
    """Over the folds, each at the threshold that is best on the others."""
    accuracy_std: float
    """Of the folds' accuracies (population)."""
    tar_at_far: dict[str, float]
    """True accept rate by false accept rate ("0.001"), where impostor pairs support it."""
    auc: float
    """Area under the ROC: how often a genuine pair scores above an impostor pair."""
    rank1: float | None
    """How often the nearest other image is of the same person; None where only listed pairs count."""
    num_pairs: int
    """Pairs behind accuracy."""
    num_folds: int
    """Folds behind accuracy."""
    scored: Scored
    """What is behind tar_at_far and auc: the listed pairs, or all pairs of their images."""
    num_genuine: int
    """Pairs behind tar_at_far and auc."""
    num_impostor: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def fold_accuracies(scores: np.ndarray, same: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Accuracy of each fold at the threshold that is best on all others (LFW's protocol).

    Thresholds lie midway between neighbouring scores of the other folds; among equally good ones
    the middle one is taken.

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
    """The threshold with the fewest errors; of several, the middle one."""
    order = np.argsort(scores, kind="stable")
    ranked, genuine = scores[order], same[order]
    # Cut k: the k lowest are rejected. Errors: genuine among those, impostors among the rest.
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


def tar_at_far(genuine: np.ndarray, impostor: np.ndarray, far: float) -> float | None:
    """True accept rate at a false accept rate.

    The threshold is the impostor score of rank floor(far N) + 1 from the top, so that at most
    floor(far N) impostors are accepted. None where far N < 1: the rate would rest on no impostor.

    Args:
        genuine: scores (G,).
        impostor: scores (N,).
        far: in (0, 1).
    """
    allowed = int(np.floor(far * len(impostor) * (1 + 1e-12)))
    if allowed < 1 or len(genuine) == 0:
        return None
    rank = min(allowed, len(impostor) - 1)
    threshold = np.partition(impostor, len(impostor) - 1 - rank)[len(impostor) - 1 - rank]
    return float(np.mean(genuine > threshold))


def roc(genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true accept rates at every threshold, rising from (0, 0) to (1, 1)."""
    scores = np.concatenate([genuine, impostor])
    is_genuine = np.concatenate([np.ones(len(genuine), bool), np.zeros(len(impostor), bool)])
    order = np.argsort(-scores, kind="stable")
    accepted_genuine, accepted = np.cumsum(is_genuine[order]), np.arange(1, len(scores) + 1)
    ends = np.append(
        np.flatnonzero(np.diff(scores[order])), len(scores) - 1
    )  # equal scores go together
    tar = accepted_genuine[ends] / max(len(genuine), 1)
    far = (accepted[ends] - accepted_genuine[ends]) / max(len(impostor), 1)
    return np.append(0.0, far), np.append(0.0, tar)


def area_under_roc(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Probability that a genuine pair scores above an impostor pair, ties counted half."""
    far, tar = roc(genuine, impostor)
    return float(np.trapezoid(tar, far))


def rank1(embeddings: np.ndarray, identities: np.ndarray) -> float | None:
    """Leave-one-out identification: how often the most similar other image is of the same person.

    Args:
        embeddings: (N, D), unit length.
        identities: (N,) integers.

    Returns:
        The share among images whose person has another image; None if there are none.
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


def all_pairs(embeddings: np.ndarray, identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all genuine and of all impostor pairs of N labelled embeddings (N, D)."""
    one, other = np.triu_indices(len(embeddings), k=1)
    scores = (embeddings @ embeddings.T)[one, other]
    same = identities[one] == identities[other]
    return scores[same], scores[~same]


def verify(
    embeddings: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    same: np.ndarray,
    fold: np.ndarray,
    identities: np.ndarray | None = None,
) -> tuple[VerificationResult, tuple[np.ndarray, np.ndarray]]:
    """All figures of one set.

    Accuracy is that of the listed pairs. TAR@FAR, AUC and the ROC rest on the listed pairs too, or on
    all pairs of the images where `identities` tells who they show; only then is there a rank-1.

    Args:
        embeddings: (N, D); normalised here.
        first: (P,) indices of one image of each listed pair.
        second: (P,) indices of the other.
        same: (P,) bool.
        fold: (P,) integers.
        identities: (N,) integers, or None to score the listed pairs only.

    Returns:
        The figures, and genuine and impostor scores.
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    embeddings = embeddings / np.maximum(lengths, 1e-12)
    scores = np.einsum("pd,pd->p", embeddings[first], embeddings[second])
    genuine, impostor = scores[same], scores[~same]
    if identities is not None:
        genuine, impostor = all_pairs(embeddings, identities)
    accuracies = fold_accuracies(scores, same, fold)
    rates = {f"{far:g}": tar_at_far(genuine, impostor, far) for far in FALSE_ACCEPT_RATES}
    result = VerificationResult(
        accuracy=float(accuracies.mean()),
        accuracy_std=float(accuracies.std()),
        tar_at_far={far: rate for far, rate in rates.items() if rate is not None},
        auc=area_under_roc(genuine, impostor),
        rank1=None if identities is None else rank1(embeddings, identities),
        num_pairs=len(same),
        num_folds=len(accuracies),
        scored="listed" if identities is None else "all",
        num_genuine=len(genuine),
        num_impostor=len(impostor),
    )
    return result, (genuine, impostor)
