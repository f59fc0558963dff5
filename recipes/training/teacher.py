"""The teacher network: embeds the images of a step, or finds their embeddings in a cache."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fusedface.data.transforms import fit
from fusedface.recipes.configuration.digest import sha256
from fusedface.recipes.configuration.teacher import TeacherOptions
from fusedface.recipes.evaluation.recogniser import Recogniser
from fusedface.recipes.training.embedding_cache import EmbeddingCache, image_key

BLOCK = 32
"""Fixed batch size of the teacher. Another size could round differently; the embeddings in a cache would
then depend on which images it had missed."""


class Teacher:
    """A network that is not trained, optionally with a cache.

    It embeds the image that the student sees, after conversion to the teacher's size, channel order and
    normalisation. It runs in float32 and evaluation mode, without the mirror image.

    Args:
        network: the teacher.
        bgr: whether it takes the channels in the order B, G, R.
        cache: the folder that keeps embeddings; None for no cache.
        digest: a hash that identifies this teacher.
        device: kind of its device, such as "cuda"; kinds round differently, so each has its own cache.

    Attributes:
        dim: D, the length of its embeddings.
    """

    def __init__(
        self,
        network: Recogniser,
        *,
        bgr: bool = False,
        cache: Path | None = None,
        digest: str = "",
        device: str = "cpu",
    ) -> None:
        self.network, self._bgr = network, bgr
        self.dim = self._compute([np.zeros((*network.size, 3), np.uint8)]).shape[1]
        self._cache = None
        if cache is not None:
            kind = ("-bgr" if bgr else "") + ("" if device == "cpu" else f"-{device}")
            path = cache / f"{digest[:16]}{kind}.embeddings"
            self._cache = EmbeddingCache(path, digest + kind, self.dim)

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) float32 of length 1, on the CPU, of images (B, H, W, 3) uint8 RGB.

        Raises:
            ValueError: some are not finite or 0, or the cache is damaged.
            OSError: the cache cannot be written.
        """
        pixels = images.cpu().numpy()
        found = self._compute(pixels) if self._cache is None else self._kept(self._cache, pixels)
        return F.normalize(torch.from_numpy(found))

    def _kept(self, cache: EmbeddingCache, images: np.ndarray) -> np.ndarray:
        """Embeddings from the cache; missing ones are computed and added."""
        keys = [image_key(image) for image in images]
        missing = {key: i for i, key in enumerate(keys) if cache.get(key) is None}
        if missing:
            cache.add([*missing], self._compute([images[i] for i in missing.values()]))
        return np.stack([embedding for key in keys if (embedding := cache.get(key)) is not None])

    def _compute(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Embeddings (B, D) by the network, not normalised."""
        parts = []
        for start in range(0, len(images), BLOCK):
            batch = np.stack([fit(i, self.network.size) for i in images[start : start + BLOCK]])
            padded = np.concatenate([batch, np.repeat(batch[-1:], BLOCK - len(batch), axis=0)])
            padded = padded[..., ::-1].copy() if self._bgr else padded
            parts.append(self.network.features(padded)[: len(batch)])
        embeddings = np.concatenate(parts)
        if not np.isfinite(embeddings).all():
            raise ValueError(
                f"the teacher {self.network.path} embeds images as NaN or infinity: it cannot teach"
            )
        return embeddings


def open_teacher(
    options: TeacherOptions, device: torch.device, open_network: Callable[[Path, str], Recogniser]
) -> Teacher | None:
    """The teacher of a recipe; None for a recipe without a teacher.

    Args:
        options: the settings `teacher.*` of the recipe.
        device: where the teacher runs.
        open_network: opens the file of a network on a device, such as `recognisers.open_recogniser`.

    Raises:
        ValueError: the file is missing, damaged, not a face recogniser, or not the one in the recipe; or
            its cache is damaged.
    """
    if options.network is None or options.sha256 is None:
        if options != TeacherOptions():
            raise ValueError(
                "the recipe has settings of a teacher and none: name it by --teacher FILE"
            )
        return None
    path = Path(options.network)
    _refuse_another_file(path, options.sha256)
    network = open_network(path, str(device))
    cache = None if options.cache is None else Path(options.cache)
    if cache is not None and cache.exists() and not cache.is_dir():
        raise ValueError(f"teacher.cache must be a folder, {cache} is a file")
    return Teacher(network, bgr=options.bgr, cache=cache, digest=options.sha256, device=device.type)


def _refuse_another_file(path: Path, digest: str) -> None:
    """Raise ValueError unless a file has the SHA-256 that the recipe names."""
    try:
        found = sha256(path)
    except ValueError as error:
        raise ValueError(f"{error}; a run with a teacher needs its file until the end") from None
    if found != digest:
        raise ValueError(
            f"the teacher {path} has changed: it is not the file that the recipe names by its SHA-256 "
            f"{digest}; restore it, or begin another run with this one by --teacher"
        )
