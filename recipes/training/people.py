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
    """(K, D), sums of embeddings of length 1."""
    counts: Tensor
    """(K,), numbers of images that could be read."""


def embed_people(model: Backbone, source: FaceSource, people: range) -> Embedded:
    """Embed every image of some people without augmentation, in evaluation mode and float32.

    Args:
        model: on any device; its mode is restored.
        source: N images of C people; those that cannot be read are left out.
        people: K classes.

    Raises:
        ValueError: some embeddings are not finite.
    """
    device, size = next(model.parameters()).device, model.preprocessing.image_size
    sums = torch.zeros(len(people), model.embedding_dim, dtype=torch.float64)
    counts = torch.zeros(len(people), dtype=torch.float64)
    theirs = ((source.labels >= people.start) & (source.labels < people.stop)).nonzero()[0].tolist()
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            for first in range(0, len(theirs), BATCH_SIZE):
                batch = theirs[first : first + BATCH_SIZE]
                images, kept = _read(source, batch, size)
                if not kept:
                    continue
                inputs = model.preprocessing.images_to_tensor(torch.from_numpy(images).to(device))
                # Summed on the CPU, where the order is always the same.
                units = F.normalize(model(inputs).double()).cpu()
                labels = torch.from_numpy(source.labels[kept]) - people.start
                sums.index_add_(0, labels, units)
                counts.index_add_(0, labels, torch.ones(len(kept), dtype=torch.float64))
    finally:
        model.train(was_training)
    _refuse_non_finite(sums, source.class_names[people.start : people.stop])
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
