"""Verification of a network: embed each image and its mirror image, compare, count."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fusedface.data.dataset import read_images
from fusedface.data.ijb import Templates
from fusedface.data.pairs import PairList
from fusedface.data.transforms import fit, frame_size
from fusedface.models import Backbone
from fusedface.recipes.engine.verification import VerificationResult, verify

BATCH_SIZE = 64
MAX_ALL_PAIRS = 20_000_000  # scores of all pairs are held in memory: 160 MB in float64


@dataclass(frozen=True)
class Scores:
    """Cosines behind a result, for the ROC."""

    genuine: np.ndarray
    impostor: np.ndarray


def evaluate_pairs(model: Backbone, pairs: PairList) -> VerificationResult:
    """Verification figures of a network on a pair list; see `verify`."""
    return evaluate_with_scores(model, pairs)[0]


def evaluate_with_scores(model: Backbone, pairs: PairList) -> tuple[VerificationResult, Scores]:
    """The figures, and the scores they rest on.

    Raises:
        ValueError: an image of the list cannot be read: a figure over fewer pairs is another figure.
    """
    embeddings = embed(model, pairs).cpu().numpy().astype(np.float64)
    result, (genuine, impostor) = verify(
        embeddings, pairs.first, pairs.second, pairs.same, pairs.fold, pairs.images.identities,
        MAX_ALL_PAIRS,
    )  # fmt: skip
    return result, Scores(genuine, impostor)


def embed(model: Backbone, pairs: PairList | Templates) -> Tensor:
    """Embeddings (N, D or 2 D) of the images of a set, mirror features joined, on the model's device.

    In float32 and evaluation mode whatever the training used; the mode is put back.
    """
    device = next(model.parameters()).device
    size = frame_size(model.preprocessing)
    was_training = model.training
    model.eval()
    parts = []
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            for start in range(0, len(pairs.images), BATCH_SIZE):
                images = _read(
                    pairs, range(start, min(start + BATCH_SIZE, len(pairs.images))), size
                )
                parts.append(_embed_batch(model, images.to(device)))
    finally:
        model.train(was_training)
    return torch.cat(parts)


def _embed_batch(model: Backbone, images: Tensor) -> Tensor:
    """Of (B, H, W, 3) uint8 images: the sum of the features of both mirror images, or both in a row."""
    inputs = model.preprocessing.images_to_tensor(images)
    features = model(inputs), model(inputs.flip(3))
    return (
        torch.cat(features, dim=1)
        if model.preprocessing.flip == "concat"
        else features[0] + features[1]
    )


def _read(pairs: PairList | Templates, indices: range, size: tuple[int, int]) -> Tensor:
    source = getattr(pairs.images, "source", None)
    if hasattr(source, "render"):
        wanted = pairs.images.indices[list(indices)]  # pyright: ignore[reportAttributeAccessIssue]
        images = read_images(source, wanted).images  # pyright: ignore[reportArgumentType]
    else:
        images = [pairs.images.image(i) for i in indices]
    return torch.from_numpy(np.stack([fit(image, size) for image in images]))
