"""What a network that embeds aligned faces is, whichever kind of file it comes from."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from fusedface.data import Images
from fusedface.models.preprocessing import Flip


class Recogniser(ABC):
    """Aligned faces to embeddings, mirror features joined.

    Attributes:
        path: the file.
        name: the network's name, for people.
        size: (H, W) of the aligned faces that it takes.
        flip: how the features of both mirror images are joined.
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
        """Embeddings (B, D) float32 of images (B, H, W, 3) uint8 RGB of `size`, not of their mirror images.

        Raises:
            ValueError: the file cannot be run on them.
        """

    def as_dict(self) -> dict[str, Any]:
        """What a file of results says of it."""
        return {"backbone": {"name": self.name}, "mirror_features": self.flip}

    def describe(self) -> str:
        """A line on what it is."""
        height, width = self.size
        return f"{self.path.name}: {self.name}, {height}x{width}, mirror features: {self.flip}"
