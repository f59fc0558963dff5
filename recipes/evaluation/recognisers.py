"""Opens networks that embed aligned faces: our checkpoints, public checkpoints, and ONNX files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusedface.data import Images
from fusedface.models import build_from_checkpoint
from fusedface.recipes.evaluation.embedding import embed_images
from fusedface.recipes.evaluation.recogniser import Recogniser
from fusedface.recipes.host.device import pick_device

ONNX = ".onnx"


class Checkpoint(Recogniser):
    """A checkpoint of ours or a public one.

    Args:
        path: the file.
        device: such as "cpu"; None takes a GPU if there is one.

    Raises:
        ValueError: it cannot be loaded, or the device cannot be used.
    """

    def __init__(self, path: Path, device: str | None = None) -> None:
        self.model = build_from_checkpoint(path).to(pick_device(device))
        self.path, self.name = path, self.model.config["name"]
        self.size = self.model.preprocessing.image_size
        self.flip = self.model.preprocessing.flip

    def as_dict(self) -> dict[str, Any]:
        """As `Recogniser.as_dict`, with the whole configuration."""
        return super().as_dict() | {"backbone": self.model.config}

    def features(self, images: np.ndarray) -> np.ndarray:
        """See `Recogniser`."""
        device = next(self.model.parameters()).device
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            inputs = self.model.preprocessing.images_to_tensor(torch.from_numpy(images).to(device))
            return self.model(inputs).cpu().numpy()

    def embed(self, images: Images) -> np.ndarray:
        """See `Recogniser`."""
        return embed_images(self.model, images).cpu().numpy().astype(np.float64)


def open_recogniser(path: Path, device: str | None = None) -> Recogniser:
    """Open a checkpoint or an ONNX file (by its suffix, on the CPU).

    Raises:
        ValueError: it is neither, or not a face recogniser.
    """
    if path.suffix.lower() == ONNX:
        from fusedface.recipes.evaluation.onnx_recogniser import OnnxRecogniser

        return OnnxRecogniser(path)
    return Checkpoint(path, device)
