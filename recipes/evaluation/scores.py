"""Cosines of pairs of images, with the indices of the images."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PairScores:
    """P scored pairs of the images of a set.

    Args:
        first, second: (P,) integers, indices of the two images.
        same: (P,) bool, True for a genuine pair (one person), False for an impostor pair.
        cosine: (P,) float64.
    """

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    cosine: np.ndarray

    @property
    def genuine(self) -> np.ndarray:
        """Cosines of the genuine pairs."""
        return self.cosine[self.same]

    @property
    def impostor(self) -> np.ndarray:
        """Cosines of the impostor pairs."""
        return self.cosine[~self.same]


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings (N, D), normalised to length 1."""
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def listed_pairs(
    embeddings: np.ndarray, first: np.ndarray, second: np.ndarray, same: np.ndarray
) -> PairScores:
    """Scores of P listed pairs of N embeddings (N, D) of length 1."""
    cosine = np.einsum("pd,pd->p", embeddings[first], embeddings[second])
    return PairScores(first, second, same, cosine)


def all_pairs(embeddings: np.ndarray, identities: np.ndarray) -> PairScores:
    """Scores of all pairs of N embeddings (N, D) of length 1, of the people `identities` (N,)."""
    one, other = np.triu_indices(len(embeddings), k=1)
    cosine = (embeddings @ embeddings.T)[one, other]
    same = identities[one] == identities[other]
    return PairScores(one.astype(np.int32), other.astype(np.int32), same, cosine)
