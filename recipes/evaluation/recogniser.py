"""The interface of a network that embeds aligned faces, whatever its kind of file."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from fusedface.data import Images
from fusedface.models.preprocessing import Flip


class Recogniser(ABC):
    """Maps aligned faces to embeddings, with mirror features joined.

    Attributes:
        path: the file.
        name: the network's name, for people.
        size: (H, W) of the aligned faces that it takes.
        flip: how the features of an image and its mirror image are joined.
    """

    path: Path
    name: str
    size: tuple[int, int]
    flip: Flip

    @abstractmethod
    def embed(self, images: Images) -> np.ndarray:
        """Embeddings (N, D) float64, not normalised.

        Raises:
            NonFiniteEmbeddingsError: some are NaN or infinite.
            ValueError: an image cannot be read, or the file cannot be run on it.
        """

    @abstractmethod
    def features(self, images: np.ndarray) -> np.ndarray:
        """Features (B, D) float32 of images (B, H, W, 3) uint8 RGB of `size`, without their mirror images.

        Raises:
            ValueError: the file cannot be run on them.
        """

    def as_dict(self) -> dict[str, Any]:
        """Facts on it for a file of results."""
        return {"backbone": {"name": self.name}, "mirror_features": self.flip}

    def describe(self) -> str:
        """One line that describes it."""
        height, width = self.size
        return f"{self.path.name}: {self.name}, {height}x{width}, mirror features: {self.flip}"
