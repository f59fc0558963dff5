"""Verification pairs, however they were given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusedface.data.images import decode_image, read_encoded, read_image
from fusedface.data.sources import FaceSource, encoded_image

NUM_FOLDS = 10  # of the field's protocol


class ImageFiles:
    """Images to be compared, by path.

    `identities` numbers the people and `identity_names` has the names of their folders where the list
    tells them; else they are None and empty.
    """

    def __init__(self, root: Path, paths: Sequence[str], identities: Sequence[str] | None) -> None:
        self.root, self.paths = root, list(paths)
        folders, self.identities = (
            ([], None) if identities is None else np.unique(identities, return_inverse=True)
        )
        self.identity_names = {Path(folder).name for folder in folders} - {""}

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB.

        Raises:
            UnreadableImage: it cannot be decoded.
        """
        return read_image(self.root / self.paths[index])

    def encoded(self, index: int) -> bytes:
        """The image as it lies in its file."""
        return read_encoded(self.root / self.paths[index])

    def describe(self, index: int) -> str:
        """The path."""
        return str(self.root / self.paths[index])


class EncodedImages:
    """Images to be compared, held encoded; who they show is unknown.

    Args:
        data: the images.
        names: of each, for messages.
    """

    identities = None

    def __init__(self, data: Sequence[bytes], names: Sequence[str]) -> None:
        self.data, self.names = data, names

    def __len__(self) -> int:
        return len(self.data)

    def image(self, index: int) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB.

        Raises:
            UnreadableImage: it cannot be decoded.
        """
        return decode_image(self.data[index], self.names[index])

    def encoded(self, index: int) -> bytes:
        """The image as it was given."""
        return self.data[index]

    def describe(self, index: int) -> str:
        """The name."""
        return self.names[index]


class SourceImages:
    """Some images of a source, to be compared."""

    def __init__(self, source: FaceSource, indices: np.ndarray) -> None:
        self.source, self.indices = source, indices
        self.identities = getattr(source, "true_labels", source.labels)[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB."""
        return self.source.image(int(self.indices[index]))

    def encoded(self, index: int) -> bytes:
        """The image, encoded; see `encoded_image`."""
        return encoded_image(self.source, int(self.indices[index]))

    def describe(self, index: int) -> str:
        """As the source names it."""
        return self.source.describe(int(self.indices[index]))


@dataclass(frozen=True)
class PairList:
    """P pairs of images in folds.

    Args:
        images: each image once; `identities` (N,) of them, or None where unknown.
        first, second: (P,) int64, indices into `images`.
        same: (P,) bool.
        fold: (P,) int64, 0, 1, ...
    """

    images: ImageFiles | EncodedImages | SourceImages
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray

    def __len__(self) -> int:
        return len(self.same)


def from_index_pairs(
    source: FaceSource, first: np.ndarray, second: np.ndarray, same: np.ndarray, fold: np.ndarray
) -> PairList:
    """Pairs of images of a source, given by their indices in it; all (P,)."""
    used, inverse = np.unique(np.concatenate([first, second]), return_inverse=True)
    left, right = inverse[: len(first)], inverse[len(first) :]
    return PairList(
        SourceImages(source, used), left, right, np.asarray(same, bool), np.asarray(fold)
    )


def check_both_kinds(same: np.ndarray, path: Path) -> None:
    """Raise ValueError unless there are pairs of one person and of two; `path` is of the list."""
    if same.all() or not same.any():
        kind = "same" if same.all() else "different"
        raise ValueError(
            f"{path}: all {len(same)} pairs are of {kind} people; both kinds are needed"
        )


def contiguous_folds(num_pairs: int) -> np.ndarray:
    """(P,) numbers of ten folds of neighbours; sizes differ by one at most, the larger come first."""
    parts = np.array_split(np.arange(num_pairs), NUM_FOLDS)
    return np.repeat(np.arange(NUM_FOLDS), [len(part) for part in parts])
