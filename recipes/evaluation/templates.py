"""The 1:1 protocol of IJB-B and IJB-C: each template becomes one embedding, and pairs are compared.

The embedding of a face (mirror features joined, not normalised, because its length reflects confidence) is
multiplied by the detector's score. A medium is the mean of its faces, so that the frames of a video count
as one photo. A template is the sum of its media, at length 1. Source: insightface's eval_ijbc.py.
"""

from dataclasses import dataclass

import numpy as np

from fusedface.data.ijb import Templates
from fusedface.models import Backbone
from fusedface.recipes.evaluation.embedding import embed
from fusedface.recipes.evaluation.rates import tar_at_far
from fusedface.recipes.evaluation.scores import PairScores

TEMPLATE_RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
CHUNK = 1 << 16  # pairs compared at once: 2 x 256 MB of embeddings at D = 512


@dataclass(frozen=True)
class TemplateResult:
    """Figures of one network on one set; rates are fractions."""

    tar_at_far: dict[str, float | None]
    """True accept rate by false accept rate; None if there are too few impostor pairs for the rate."""
    num_templates: int
    num_genuine: int
    num_impostor: int


def evaluate_templates(model: Backbone, faces: Templates) -> tuple[TemplateResult, PairScores]:
    """The figures, and the scores behind them.

    Raises:
        ValueError: an image cannot be read; a figure over fewer faces would not be comparable.
    """
    return template_figures(embed(model, faces).cpu().numpy().astype(np.float64), faces)


def template_figures(embeddings: np.ndarray, faces: Templates) -> tuple[TemplateResult, PairScores]:
    """As `evaluate_templates`, from the embeddings (N, D) of the faces, mirror features joined."""
    names, templates = aggregate(embeddings * faces.score[:, None], faces.template, faces.medium)
    first, second = np.searchsorted(names, faces.first), np.searchsorted(names, faces.second)
    scores = PairScores(first, second, faces.same, compare(templates, first, second))
    genuine, impostor = scores.genuine, scores.impostor
    rates = {f"{far:g}": tar_at_far(genuine, impostor, far) for far in TEMPLATE_RATES}
    result = TemplateResult(rates, len(names), len(genuine), len(impostor))
    return result, scores


def aggregate(
    embeddings: np.ndarray, template: np.ndarray, medium: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One embedding of length 1 for each template: the sum over its media of the mean over their faces.

    Args:
        embeddings: (N, D).
        template: (N,) integers.
        medium: (N,) integers; the same number in two templates means two media.

    Returns:
        The T templates (T,), sorted, and their embeddings (T, D).
    """
    media, of_medium, count = np.unique(
        np.stack([template, medium]), axis=1, return_inverse=True, return_counts=True
    )
    means = np.zeros((media.shape[1], embeddings.shape[1]))
    np.add.at(means, of_medium.reshape(-1), embeddings)
    means /= count[:, None]
    names, of_template = np.unique(media[0], return_inverse=True)
    sums = np.zeros((len(names), embeddings.shape[1]))
    np.add.at(sums, of_template, means)
    return names, sums / np.linalg.norm(sums, axis=1, keepdims=True).clip(1e-12)


def compare(templates: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines (P,) of pairs of rows of `templates` (T, D), a chunk at a time."""
    scores = np.empty(len(first))
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        scores[part] = np.einsum("pd,pd->p", templates[first[part]], templates[second[part]])
    return scores
