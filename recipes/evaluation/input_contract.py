"""The preprocessing that an exported network expects of its caller."""

from dataclasses import dataclass

import numpy as np

USUAL = 127.5  # mean and standard deviation of InsightFace's recognisers


@dataclass(frozen=True)
class InputContract:
    """The preprocessing by the caller: (x - mean) / std, channels first, order R G B.

    Args:
        size: (H, W) of the aligned face, pixels.
        mean, std: grey levels; 127.5 and 127.5, or 0 and 1 if the network normalises.
    """

    size: tuple[int, int]
    mean: float
    std: float

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Convert (B, H, W, 3) uint8 RGB to (B, 3, H, W) float32."""
        blob = (images.astype(np.float32) - np.float32(self.mean)) / np.float32(self.std)
        return np.ascontiguousarray(blob.transpose(0, 3, 1, 2))
