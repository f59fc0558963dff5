"""Embeddings of images by a network: those of each image and its mirror image, joined."""

import numpy as np
import torch
from torch import Tensor

from fusedface.data import Images, read_batches
from fusedface.data.ijb import Templates
from fusedface.data.pair_list import PairList
from fusedface.models import Backbone

BATCH_SIZE = 64
CPU_IMAGES = 16  # at a time on a CPU, whose cache then holds what one layer hands to the next


class NonFiniteEmbeddingsError(ValueError):
    """Embeddings are NaN or infinite, so there are no figures."""


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
    ours, mirrored = model(inputs), model(inputs.flip(3))
    if model.preprocessing.flip == "concat":
        return torch.cat([ours, mirrored], dim=1)
    return ours + mirrored
