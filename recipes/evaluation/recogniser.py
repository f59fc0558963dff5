"""A network that embeds aligned faces, whichever kind of file it comes from."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from fusedface.data import Images
from fusedface.data.transforms import frame_size
from fusedface.models import build_from_checkpoint
from fusedface.models.preprocessing import Flip
from fusedface.recipes.evaluation.evaluate import embed_images
from fusedface.recipes.host.device import pick_device

ONNX = ".onnx"


class Recogniser(ABC):
    """Aligned faces to embeddings, mirror features joined.

    Attributes:
        path: of the file.
        name: of the network, for people.
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

    def as_dict(self) -> dict[str, Any]:
        """What a file of results says of it."""
        return {"backbone": {"name": self.name}, "mirror_features": self.flip}

    def describe(self) -> str:
        """A line on what it is."""
        height, width = self.size
        return f"{self.path.name}: {self.name}, {height}x{width}, mirror features: {self.flip}"


class Checkpoint(Recogniser):
    """A checkpoint, ours or a public one.

    Args:
        path: of the file.
        device: such as "cpu"; without it a GPU if there is one.

    Raises:
        ValueError: it cannot be loaded, or the device cannot be used.
    """

    def __init__(self, path: Path, device: str | None = None) -> None:
        self.model = build_from_checkpoint(path).to(pick_device(device))
        self.path, self.name = path, self.model.config["name"]
        self.size = frame_size(self.model.preprocessing)
        self.flip = self.model.preprocessing.flip

    def as_dict(self) -> dict[str, Any]:
        """With the whole configuration."""
        return super().as_dict() | {"backbone": self.model.config}

    def embed(self, images: Images) -> np.ndarray:
        """See `Recogniser`."""
        return embed_images(self.model, images).cpu().numpy().astype(np.float64)


def open_recogniser(path: Path, device: str | None = None) -> Recogniser:
    """Open a checkpoint or an ONNX file (by its suffix, on the CPU).

    Raises:
        ValueError: it is none, or no face recogniser.
    """
    if path.suffix.lower() == ONNX:
        from fusedface.recipes.evaluation.onnx_recogniser import OnnxRecogniser

        return OnnxRecogniser(path)
    return Checkpoint(path, device)
