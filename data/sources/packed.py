"""Faces of which a file holds the encoded images, each with its label."""

from pathlib import Path

import numpy as np

from fusedface.data.sources.base import FaceSource, probe
from fusedface.data.sources.images import decode_image


class PackedFaces(FaceSource):
    """A source whose `encoded` reads from a file that has a number for each identity.

    Args:
        path: the file, for messages.
        labels: (N,) integers, as in the file.

    Attributes:
        file_labels: (C,) the label of each class in the file, rising.

    Raises:
        ValueError: there are fewer than two identities, or none of the first images can be decoded.
    """

    def __init__(self, path: Path, labels: np.ndarray) -> None:
        self.file_labels, self.labels = np.unique(labels, return_inverse=True)
        self.class_names = [str(label) for label in self.file_labels]
        if self.num_classes < 2:
            raise ValueError(f"{path} must hold at least 2 identities, found {self.num_classes}")
        probe(self, path)

    def image(self, index: int) -> np.ndarray:
        """See `Images`."""
        return decode_image(self.encoded(index), self.describe(index))
