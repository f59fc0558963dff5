"""1:N identification on a labelled set: find the person of a probe in a gallery, and reject strangers.

The gallery holds the first image of each person; every other image is a probe, which is searched twice. The
search among all people gives the CMC and the detection and identification rates. The search without the
probe's own person gives the false alarms, because the probe is then a stranger. So one set serves for both,
and no figure depends on random draws.
"""

from dataclasses import dataclass

import numpy as np

from fusedface.recipes.evaluation.rates import threshold_at_far

NUM_RANKS = 20
FALSE_ALARM_RATES = (1e-1, 1e-2, 1e-3)
CHUNK = 1024  # probes searched at once


@dataclass(frozen=True)
class Identification:
    """Figures of one network on one set; rates are fractions."""

    cmc: tuple[float, ...]
    """Share of probes whose person is among the k most similar people of the gallery, k = 1, 2, ..."""
    dir_at_far: dict[str, float]
    """Detection and identification rate by false alarm rate ("0.01"): share of probes whose person comes
    first and above the threshold that this share of strangers exceeds. Only rates with enough strangers."""
    num_gallery: int
    """Number of people in the gallery, with one image each."""
    num_probes: int


def identify(embeddings: np.ndarray, identities: np.ndarray) -> Identification | None:
    """Figures of a set; in ties, other people rank before the probe's own person.

    Args:
        embeddings: (N, D), length 1.
        identities: (N,) integers.

    Returns:
        The figures; None if no person has two images, or if there is only one person.
    """
    people, enrolled = np.unique(identities, return_index=True)
    probes = np.setdiff1d(np.arange(len(identities)), enrolled)
    if len(people) < 2 or not len(probes):
        return None
    own = np.searchsorted(people, identities[probes])
    found, score, top = _search(embeddings[probes], embeddings[enrolled], own)
    ranks = range(min(NUM_RANKS, len(people)))
    thresholds = {far: threshold_at_far(top, far) for far in FALSE_ALARM_RATES}
    return Identification(
        cmc=tuple(float((found <= k).mean()) for k in ranks),
        dir_at_far={
            f"{far:g}": float(((found == 0) & (score > threshold)).mean())
            for far, threshold in thresholds.items()
            if threshold is not None
        },
        num_gallery=len(people),
        num_probes=len(probes),
    )


def _search(
    probes: np.ndarray, gallery: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each probe: people who rank before its own, its own person's score, the best score of another.

    Args:
        probes: (P, D) embeddings of length 1.
        gallery: (G, D), one for each person.
        own: (P,), the index of each probe's person.
    """
    ahead, mated, stranger = [], [], []
    for start in range(0, len(probes), CHUNK):
        part = slice(start, start + CHUNK)
        scores = probes[part] @ gallery.T
        rows = np.arange(len(scores))
        score = scores[rows, own[part]].copy()
        scores[rows, own[part]] = -np.inf
        ahead.append((scores >= score[:, None]).sum(axis=1))
        mated.append(score)
        stranger.append(scores.max(axis=1))
    return np.concatenate(ahead), np.concatenate(mated), np.concatenate(stranger)
