"""The interface of sources of faces: images, one or many at a time, and labels if the source has them.

Anything that a source may not know has a default here, so that callers need not ask for its kind.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from fusedface.data.sources.images import UnreadableImage

PROBED_IMAGES = 16  # decoded when a source is opened, to detect a wrong folder at once


class Images(ABC):
    """N images; cheap to send to worker processes. Subclasses define the methods without a default."""

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def image(self, index: int) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB.

        Raises:
            UnreadableImage: it cannot be decoded.
        """

    @abstractmethod
    def describe(self, index: int) -> str:
        """A name of the image for people, such as its path."""

    def read(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Many images at once, each as from `image`; overridden by sources for which that is less work.

        Raises:
            UnreadableImage: one cannot be decoded.
        """
        return [self.image(int(index)) for index in indices]

    def encoded(self, index: int) -> bytes:
        """The encoded image as it is stored; PNG if it is not stored encoded.

        Raises:
            UnreadableImage: it cannot be read.
        """
        file = BytesIO()
        Image.fromarray(self.image(index)).save(file, "PNG")
        return file.getvalue()

    @property
    def identities(self) -> np.ndarray | None:
        """(N,) int64, the number of the person who is really on each image; None if unknown."""
        return None

    def folder(self) -> Path | None:
        """The folder of its files; None if it has no files."""
        return None

    def files(
        self,
        indices: Sequence[int] | np.ndarray | None = None,  # noqa: ARG002  none has a file
    ) -> Iterator[Path]:
        """The files in which images are stored, in their order; empty if there are none.

        Args:
            indices: of the images; None means all.
        """
        return iter(())

    def people(self) -> set[str]:
        """Names by which its people may be known elsewhere; empty if they have none."""
        return set()


class FaceSource(Images):
    """Images to train on, each with a label."""

    class_names: Sequence[str]
    """A name for each identity."""
    labels: np.ndarray
    """(N,) int64 in [0, num_classes)."""
    notes: Sequence[str] = ()
    """Messages for the user, such as on images that were left out."""

    @property
    def num_classes(self) -> int:
        """Number of identities."""
        return len(self.class_names)

    @property
    def identities(self) -> np.ndarray | None:
        """The labels, unless a source knows better."""
        return self.labels

    def __len__(self) -> int:
        return len(self.labels)


def probe(source: FaceSource, path: Path) -> None:
    """Raise ValueError if none of a few images spread over the source at `path` can be decoded."""
    reasons = []
    for index in np.linspace(0, len(source) - 1, min(PROBED_IMAGES, len(source))).astype(int):
        try:
            source.image(int(index))
        except UnreadableImage as error:
            reasons.append(str(error))
        else:
            return
    raise ValueError(
        f"{path}: none of {len(reasons)} images tried can be read; the first:\n  {reasons[0]}"
    )


class SomeImages(Images):
    """A part of other images.

    Args:
        source: the other images.
        indices: (M,) indices of the part.
    """

    def __init__(self, source: Images, indices: np.ndarray) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> np.ndarray:
        """See `Images`."""
        return self.source.image(int(self.indices[index]))

    def describe(self, index: int) -> str:
        """See `Images`."""
        return self.source.describe(int(self.indices[index]))

    def read(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """See `Images`."""
        return self.source.read(self.indices[np.asarray(indices)])

    def encoded(self, index: int) -> bytes:
        """See `Images`."""
        return self.source.encoded(int(self.indices[index]))

    def folder(self) -> Path | None:
        """See `Images`."""
        return self.source.folder()

    def files(self, indices: Sequence[int] | np.ndarray | None = None) -> Iterator[Path]:
        """See `Images`."""
        return self.source.files(
            self.indices if indices is None else self.indices[np.asarray(indices)]
        )

    @property
    def identities(self) -> np.ndarray | None:
        """See `Images`; numbered as in the source."""
        known = self.source.identities
        return None if known is None else known[self.indices]


class SomeIdentities(SomeImages, FaceSource):
    """Some of the identities of a source, numbered from 0 in their order.

    Args:
        source: the source of all identities.
        identities: the selected ones, as `source` numbers them.
    """

    def __init__(self, source: FaceSource, identities: Sequence[int]) -> None:
        renumbered = np.full(source.num_classes, -1, dtype=np.int64)
        renumbered[list(identities)] = np.arange(len(identities))
        labels = renumbered[source.labels]
        super().__init__(source, np.flatnonzero(labels >= 0))
        self.labels = labels[self.indices]
        self.class_names = [source.class_names[identity] for identity in identities]
        self.notes = source.notes

    def people(self) -> set[str]:
        """The names of the classes."""
        return set(self.class_names)
