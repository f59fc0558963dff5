"""Verification during training: the processes share the embedding, the first one computes the figures."""

import numpy as np

from fusedface.data import PairList
from fusedface.data.sources import SomeImages
from fusedface.models import Backbone
from fusedface.recipes.evaluation.embedding import BATCH_SIZE, embed_images
from fusedface.recipes.evaluation.evaluate import evaluate_pairs, people_to_score
from fusedface.recipes.evaluation.verification import VerificationResult, verify
from fusedface.recipes.host.processes import Processes


def evaluate_shared(model: Backbone, pairs: PairList, processes: Processes) -> VerificationResult:
    """As `evaluate_pairs`, by all processes together. Batches, and so all bits, are those of one process.

    Raises:
        NonFiniteEmbeddingsError: the network is broken; raised on every rank.
        ValueError: an image cannot be read; raised on every rank.
    """
    if processes.count == 1:
        return evaluate_pairs(model, pairs)
    with processes.together():
        part = _own_part(model, pairs, processes)
    parts = [found for found in processes.gather(part) if found is not None]

    def figures() -> VerificationResult:
        people = people_to_score(pairs)
        embeddings = np.concatenate(parts).astype(np.float64)
        return verify(embeddings, pairs.first, pairs.second, pairs.same, pairs.fold, people)[0]

    return processes.from_first(figures)


def _own_part(model: Backbone, pairs: PairList, processes: Processes) -> np.ndarray | None:
    """Embeddings of this rank's consecutive batches; None if it has no batch."""
    num_batches = -(-len(pairs.images) // BATCH_SIZE)
    first, last = (num_batches * (processes.rank + i) // processes.count for i in (0, 1))
    own = np.arange(first * BATCH_SIZE, min(last * BATCH_SIZE, len(pairs.images)))
    return embed_images(model, SomeImages(pairs.images, own)).cpu().numpy() if len(own) else None
