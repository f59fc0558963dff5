"""Verification pairs, the same for every file format."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusedface.data.sources import FaceSource, Images, SomeImages
from fusedface.data.sources.images import decode_image, read_encoded, read_image

NUM_FOLDS = 10  # as in the protocol of LFW


class ImageFiles(Images):
    """Images to be compared, by path.

    Args:
        root: the folder that the paths are relative to.
        paths: of the images.
        folders: of each image, if each folder holds one person; None if the people are unknown.
    """

    def __init__(self, root: Path, paths: Sequence[str], folders: Sequence[str] | None) -> None:
        self.root, self.paths = root, list(paths)
        self._folders, self._identities = (
            ([], None) if folders is None else np.unique(folders, return_inverse=True)
        )

    @property
    def identities(self) -> np.ndarray | None:
        """The number of each image's folder."""
        return self._identities

    def folder(self) -> Path:
        """The root."""
        return self.root

    def files(self, indices: Sequence[int] | np.ndarray | None = None) -> Iterator[Path]:
        """One file per image."""
        return (
            self.root / self.paths[int(i)]
            for i in (range(len(self)) if indices is None else indices)
        )

    def people(self) -> set[str]:
        """The names of the folders."""
        return {Path(folder).name for folder in self._folders} - {""}

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> np.ndarray:
        """See `Images`."""
        return read_image(self.root / self.paths[index])

    def encoded(self, index: int) -> bytes:
        """The bytes of the image file."""
        return read_encoded(self.root / self.paths[index])

    def describe(self, index: int) -> str:
        """The path."""
        return str(self.root / self.paths[index])


class EncodedImages(Images):
    """Images to be compared, held encoded in memory; the people are unknown.

    Args:
        data: the encoded images.
        names: of each image, for messages.
    """

    def __init__(self, data: Sequence[bytes], names: Sequence[str]) -> None:
        self.data, self.names = data, names

    def __len__(self) -> int:
        return len(self.data)

    def image(self, index: int) -> np.ndarray:
        """See `Images`."""
        return decode_image(self.data[index], self.names[index])

    def encoded(self, index: int) -> bytes:
        """The image as it was given."""
        return self.data[index]

    def describe(self, index: int) -> str:
        """The name."""
        return self.names[index]


@dataclass(frozen=True)
class PairList:
    """P pairs of images in folds.

    Args:
        images: each image once; its `identities` are the people.
        first: (P,) int64, indices into `images`.
        second: (P,) int64, as `first`, the other image of each pair.
        same: (P,) bool, whether both show one person.
        fold: (P,) int64, 0, 1, ...
        drawn: whether the pairs were drawn from labelled images, and not read from a list.
    """

    images: Images
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    drawn: bool = False

    def __len__(self) -> int:
        return len(self.same)


def from_index_pairs(
    source: FaceSource, first: np.ndarray, second: np.ndarray, same: np.ndarray, fold: np.ndarray
) -> PairList:
    """Pairs of images of a source, given by their indices in it; all arrays are (P,)."""
    used, inverse = np.unique(np.concatenate([first, second]), return_inverse=True)
    left, right = inverse[: len(first)], inverse[len(first) :]
    return PairList(
        SomeImages(source, used), left, right, np.asarray(same, bool), np.asarray(fold), drawn=True
    )


def check_both_kinds(same: np.ndarray, path: Path) -> None:
    """Raise ValueError unless there are genuine and impostor pairs; `path` is that of the list."""
    if same.all() or not same.any():
        kind = "same" if same.all() else "different"
        raise ValueError(
            f"{path}: all {len(same)} pairs are of {kind} people; both kinds are needed"
        )


def contiguous_folds(num_pairs: int) -> np.ndarray:
    """Fold numbers (P,) for ten contiguous folds; sizes differ by one at most, the larger come first."""
    parts = np.array_split(np.arange(num_pairs), NUM_FOLDS)
    return np.repeat(np.arange(NUM_FOLDS), [len(part) for part in parts])
