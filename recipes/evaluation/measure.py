"""All measurements of one network on one set."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fusedface.data import PairList
from fusedface.recipes.evaluation.identification import Identification, identify
from fusedface.recipes.evaluation.scores import PairScores, listed_pairs, unit
from fusedface.recipes.evaluation.thresholds import SetThresholds, set_thresholds
from fusedface.recipes.evaluation.verification import VerificationResult, verify


@dataclass(frozen=True, eq=False)
class Measured:
    """The measurements of one network on one set."""

    pairs: PairList
    figures: VerificationResult
    scores: PairScores
    """The scores behind rates, thresholds and calibration: of the listed pairs, or of all pairs."""
    listed: PairScores
    thresholds: SetThresholds
    identification: Identification | None
    """None if the people are unknown or have one image each."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the verification figures, and what rests on the same scores."""
        more = {"thresholds": asdict(self.thresholds)}
        if self.identification is not None:
            more["identification"] = asdict(self.identification)
        return self.figures.as_dict() | more


def measure(embeddings: np.ndarray, pairs: PairList, people: np.ndarray | None) -> Measured:
    """Measure a set.

    Args:
        embeddings: (N, D), those of its images.
        pairs: the set.
        people: (N,) integers, to score all pairs of its images; None scores the listed pairs.
    """
    figures, scores = verify(embeddings, pairs.first, pairs.second, pairs.same, pairs.fold, people)
    vectors = unit(embeddings)
    listed = listed_pairs(vectors, pairs.first, pairs.second, pairs.same)
    known = pairs.images.identities
    return Measured(
        pairs,
        figures,
        scores,
        listed,
        set_thresholds(
            scores, listed, len(pairs.images), known, "listed" if people is None else "all"
        ),
        None if known is None else identify(vectors, known),
    )
