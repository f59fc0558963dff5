"""Training images: read, augmented and put together in batches, the same for any number of workers."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fusedface.data.sources import FaceSource, Images
from fusedface.data.sources.images import UnreadableImage
from fusedface.data.transforms import ONLY_MIRRORS, augmentation, fit, is_mirrored
from fusedface.models import Preprocessing


class FaceBatch(NamedTuple):
    """A batch, as a loader yields it.

    An unreadable image is replaced by the next readable one of the source, with its label;
    `unreadable` says which and why.
    """

    images: Tensor  # (B, H, W, 3) uint8, RGB; those that are `mirrored` as they are before that
    labels: Tensor  # (B,) int64
    unreadable: tuple[str, ...]
    mirrored: Tensor  # (B,) bool: images that `seen` has to mirror

    def to(self, device: torch.device) -> Self:
        """The batch on a device; from pinned memory, the host does not wait for the copy."""
        images, labels, mirrored = (
            tensor.to(device, non_blocking=True) for tensor in self.tensors()
        )
        return self._replace(images=images, labels=labels, mirrored=mirrored)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and which are mirrored."""
        return self.images, self.labels, self.mirrored

    def seen(self) -> Tensor:
        """The images (B, H, W, 3) uint8 as the network sees them: some are mirrored, left to right."""
        return torch.where(self.mirrored[:, None, None, None], self.images.flip(2), self.images)


class FaceDataset(Dataset[FaceBatch]):
    """A source as a network sees it in training.

    An image depends only on (seed, epoch, index). The preset "flip" is left to the device of the training
    (`FaceBatch.seen`); the bits are the same. Batches are read whole (`__getitems__`), because
    generated faces are rendered many at a time; use a DataLoader with `collate_fn=collate_whole`.

    Args:
        source: where the faces come from.
        augmentation: one of `fusedface.data.PRESETS`.
        preprocessing: of the backbone; images are scaled to the size it takes.
        seed: of the augmentation.

    Raises:
        ValueError: the preset is unknown or cannot be used here.
    """

    def __init__(
        self, source: FaceSource, augmentation: str, preprocessing: Preprocessing, seed: int
    ) -> None:
        self.source, self.seed, self.epoch = source, seed, 0
        self.preset = augmentation
        self.size = preprocessing.image_size
        self._augment = _augment(augmentation, self.size)

    def set_epoch(self, epoch: int) -> None:
        """Draw new augmentation; call it before the workers of the epoch start."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> FaceBatch:
        """A batch of one image."""
        return self.batch([index])

    def __getitems__(self, indices: Sequence[int]) -> list[FaceBatch]:
        """One batch of these images, in a list for the loader's collate function."""
        return [self.batch(indices)]

    def batch(self, indices: Sequence[int]) -> FaceBatch:
        """The images at `indices`, augmented for the current epoch."""
        read = read_readable(self.source, indices)
        images, mirrored = [], []
        for image, index in zip(read.images, indices, strict=True):
            rng = np.random.default_rng((self.seed, self.epoch, int(index)))
            fitted, is_left = fit(image, self.size), self.preset == ONLY_MIRRORS
            mirrored.append(is_left and is_mirrored(rng))
            images.append(fitted if is_left else self._augment(fitted, rng))
        return FaceBatch(
            torch.from_numpy(np.stack(images)),
            torch.from_numpy(self.source.labels[read.indices]),
            read.unreadable,
            torch.tensor(mirrored),
        )

    def __getstate__(self) -> dict[str, object]:
        """State for new worker processes: they build the augmentation again."""
        return {k: v for k, v in self.__dict__.items() if k != "_augment"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._augment = _augment(self.preset, self.size)


_augment = augmentation  # the argument of FaceDataset has the same name


class _Read(NamedTuple):
    images: Sequence[np.ndarray]
    indices: list[int]  # the index that each image really has
    unreadable: tuple[str, ...]


def read_readable(source: FaceSource, indices: Sequence[int]) -> _Read:
    """Images at `indices`; an unreadable one is replaced by the next readable one of the source.

    Raises:
        ValueError: no image of the source can be read.
    """
    try:
        return _Read(source.read(indices), [int(i) for i in indices], ())
    except UnreadableImage:  # one by one, to tell which
        unreadable: list[str] = []
        found = [_next_readable(source, int(index), unreadable) for index in indices]
        images, used = zip(*found, strict=True)
        return _Read(images, list(used), tuple(unreadable))


def _next_readable(source: FaceSource, index: int, unreadable: list[str]) -> tuple[np.ndarray, int]:
    for offset in range(len(source)):
        at = (index + offset) % len(source)
        try:
            return source.image(at), at
        except UnreadableImage as error:
            unreadable.append(str(error))
    raise ValueError(f"none of the {len(source)} images can be read; the last: {unreadable[-1]}")


def collate_whole(batches: list[FaceBatch]) -> FaceBatch:
    """The collate function of a loader over FaceDataset, which yields whole batches."""
    return batches[0]


def read_batches(images: Images, size: tuple[int, int], batch_size: int) -> Iterator[np.ndarray]:
    """All images in their order, in batches (B, H, W, 3) uint8; the last batch may be smaller.

    Args:
        images: the images to read.
        size: (H, W) to which they are scaled.
        batch_size: B.

    Raises:
        UnreadableImage: an image cannot be decoded; none is replaced.
    """
    for start in range(0, len(images), batch_size):
        indices = range(start, min(start + batch_size, len(images)))
        yield np.stack([fit(image, size) for image in images.read(indices)])
