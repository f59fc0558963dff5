"""Verification of a network: embed images and mirror images, score pairs, compute figures."""

import numpy as np
import torch
from torch import Tensor

from fusedface.data import Images, read_batches
from fusedface.data.ijb import Templates
from fusedface.data.pair_list import PairList
from fusedface.models import Backbone
from fusedface.recipes.evaluation.scores import PairScores
from fusedface.recipes.evaluation.verification import VerificationResult, verify

BATCH_SIZE = 64
CPU_IMAGES = 16  # at a time on a CPU, whose cache then holds what one layer hands to the next
MAX_ALL_PAIRS = 20_000_000  # scores of all pairs are held in memory: 160 MB in float64


class NonFiniteEmbeddingsError(ValueError):
    """Embeddings are NaN or infinite, so there are no figures."""


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


def embed(model: Backbone, pairs: PairList | Templates) -> Tensor:
    """Embeddings of the images of a set; see `embed_images`."""
    return embed_images(model, pairs.images)


def embed_images(model: Backbone, images: Images) -> Tensor:
    """Embeddings (N, D or 2 D) of images, mirror features joined, on the model's device.

    It computes in float32 and evaluation mode, and restores the mode of the model.

    Raises:
        NonFiniteEmbeddingsError: some are NaN or infinite; the message has their number and the first one.
        ValueError: an image cannot be read.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            parts = [
                _embed_batch(model, torch.from_numpy(batch).to(device))
                for batch in read_batches(images, model.preprocessing.image_size, BATCH_SIZE)
            ]
    finally:
        model.train(was_training)
    embeddings = torch.cat(parts)
    refuse_non_finite(embeddings.cpu().numpy(), images)
    return embeddings


def refuse_non_finite(embeddings: np.ndarray, images: Images) -> None:
    """Raise NonFiniteEmbeddingsError unless all embeddings (N, D) are finite."""
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(broken):
        raise NonFiniteEmbeddingsError(
            f"the embeddings of {len(broken):,} of {len(embeddings):,} images are not finite, first that "
            f"of {images.describe(int(broken[0]))}; the network cannot be verified"
        )


def _embed_batch(model: Backbone, images: Tensor) -> Tensor:
    """Features of (B, H, W, 3) uint8 images and their mirror images, summed or concatenated."""
    at_once = CPU_IMAGES if images.device.type == "cpu" else len(images)
    return torch.cat([_embed_part(model, part) for part in images.split(at_once)])


def _embed_part(model: Backbone, images: Tensor) -> Tensor:
    inputs = model.preprocessing.images_to_tensor(images)
    features = model(inputs), model(inputs.flip(3))
    return (
        torch.cat(features, dim=1)
        if model.preprocessing.flip == "concat"
        else features[0] + features[1]
    )
