"""Embeddings of the people of a source, under a network."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fusedface.data import FaceSource
from fusedface.data.sources.images import UnreadableImage
from fusedface.data.transforms import fit
from fusedface.models import Backbone

BATCH_SIZE = 64


class Embedded(NamedTuple):
    """Sums of the embeddings of each person, in float64 on the CPU."""

    sums: Tensor
    """(C, D), sums of embeddings of length 1."""
    counts: Tensor
    """(C,), numbers of images that could be read."""


def embed_people(model: Backbone, source: FaceSource) -> Embedded:
    """Embed every image of a source without augmentation, in evaluation mode and float32.

    Args:
        model: on any device; its mode is restored.
        source: N images of C people; those that cannot be read are left out.

    Raises:
        ValueError: some embeddings are not finite.
    """
    device, size = next(model.parameters()).device, model.preprocessing.image_size
    sums = torch.zeros(source.num_classes, model.embedding_dim, dtype=torch.float64)
    counts = torch.zeros(source.num_classes, dtype=torch.float64)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            for first in range(0, len(source), BATCH_SIZE):
                batch = range(first, min(first + BATCH_SIZE, len(source)))
                images, kept = _read(source, batch, size)
                if not kept:
                    continue
                inputs = model.preprocessing.images_to_tensor(torch.from_numpy(images).to(device))
                # Summed on the CPU, where the order is always the same.
                units = F.normalize(model(inputs).double()).cpu()
                labels = torch.from_numpy(source.labels[kept])
                sums.index_add_(0, labels, units)
                counts.index_add_(0, labels, torch.ones(len(kept), dtype=torch.float64))
    finally:
        model.train(was_training)
    _refuse_non_finite(sums, source.class_names)
    return Embedded(sums, counts)


def _refuse_non_finite(sums: Tensor, names: Sequence[str]) -> None:
    """Raise ValueError, with the first person whose embeddings are not finite."""
    wrong = (~sums.isfinite().all(dim=1)).nonzero()
    if len(wrong):
        raise ValueError(
            f"the checkpoint's network embeds images of {names[int(wrong[0])]} as NaN or infinity: no run "
            "can begin with it"
        )


def _read(
    source: FaceSource, indices: Sequence[int], size: tuple[int, int]
) -> tuple[np.ndarray, list[int]]:
    """The readable images (B, H, W, 3) among `indices`, and their indices."""
    images, kept = [], []
    try:
        images, kept = source.read(indices), list(indices)
    except UnreadableImage:
        for index in indices:
            try:
                images.append(source.image(index))
            except UnreadableImage:
                continue
            kept.append(index)
    return np.stack([fit(image, size) for image in images]) if kept else np.empty(0), kept
