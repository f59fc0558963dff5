"""Verification of a network: embed images, score pairs, compute figures."""

import numpy as np

from fusedface.data.pair_list import PairList
from fusedface.models import Backbone
from fusedface.recipes.evaluation.embedding import embed
from fusedface.recipes.evaluation.scores import PairScores
from fusedface.recipes.evaluation.verification import VerificationResult, verify

MAX_ALL_PAIRS = 20_000_000  # scores of all pairs are held in memory: 160 MB in float64


def evaluate_pairs(
    model: Backbone, pairs: PairList, *, all_pairs: bool | None = None
) -> VerificationResult:
    """Verification figures of a network on a pair list; see `evaluate_with_scores`."""
    return evaluate_with_scores(model, pairs, all_pairs=all_pairs)[0]


def evaluate_with_scores(
    model: Backbone, pairs: PairList, *, all_pairs: bool | None = None
) -> tuple[VerificationResult, PairScores]:
    """The verification figures, and the scores behind them.

    Args:
        model: on any device.
        pairs: P pairs of N images.
        all_pairs: whether to compute TAR, AUC and rank-1 from all pairs of the N images instead of the P
            listed ones; None decides as in `people_to_score`.

    Raises:
        NonFiniteEmbeddingsError: the network is broken.
        ValueError: an image of the list cannot be read (a figure over fewer pairs would not be comparable),
            or all pairs are asked for and not possible.
    """
    identities = people_to_score(pairs, all_pairs)
    embeddings = embed(model, pairs).cpu().numpy().astype(np.float64)
    return verify(embeddings, pairs.first, pairs.second, pairs.same, pairs.fold, identities)


def people_to_score(pairs: PairList, all_pairs: bool | None = None) -> np.ndarray | None:
    """The people on the images of a set (N,) if TAR, AUC and rank-1 use all pairs, else None.

    Args:
        pairs: the set.
        all_pairs: None takes all pairs for a set that was drawn here, up to 20 million, and the listed
            pairs for a list or a .bin. (A .bin does not name the people.)

    Raises:
        ValueError: all pairs are asked for, but the people are unknown, or the pairs are too many.
    """
    people, count = pairs.images.identities, len(pairs.images) * (len(pairs.images) - 1) // 2
    if all_pairs is None:
        all_pairs = pairs.drawn and count <= MAX_ALL_PAIRS
    if not all_pairs:
        return None
    if people is None:
        raise ValueError(
            f"the people of {pairs.images.describe(0)} and the other images are unknown (of a .bin "
            "always, of a list where its folders are not its people), so their pairs cannot all be "
            "scored; leave --all-pairs out to score the listed ones"
        )
    if count > MAX_ALL_PAIRS:
        raise ValueError(
            f"all pairs of {len(pairs.images):,} images are {count:,}, at most {MAX_ALL_PAIRS:,} are "
            "scored; leave --all-pairs out to score the listed ones"
        )
    return people
