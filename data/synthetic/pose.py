"""Pose: where a feature at some depth appears, and the pixel grid of a turned, shifted head."""

import torch
from torch import Tensor

from fusedface.data.synthetic.frame import ROLL, SCALE, SHIFT
from fusedface.data.synthetic.named import Named, rotation

YAW, PITCH = 0.65, 0.40  # radians at full difficulty
# Images are aligned by eyes, nose and mouth, whose mean depth this is; it does not move with the head.
ALIGNED_DEPTH = 0.48


class Pose:
    """Poses of n photos; c holds conditions already scaled by the difficulty."""

    def __init__(self, c: Named) -> None:
        self._c = c
        self.cos_yaw, self.sin_yaw = rotation(YAW * c.yaw)
        self.cos_pitch, self.sin_pitch = rotation(PITCH * c.pitch)
        self._cos_roll, self._sin_roll = rotation(ROLL * c.roll)
        self._scale = 1.0 / (1.0 + SCALE * c.scale)
        self._shift = SHIFT * c.shift_x, SHIFT * c.shift_y

    def take(self, chosen: Tensor) -> "Pose":
        """Poses of some of the photos, by index (k,)."""
        return Pose(self._c.take(chosen))

    def place(self, x: Tensor | float, y: Tensor | float, depth: float) -> tuple[Tensor, Tensor]:
        """Where a point of the face appears: its depth shifts it as the head turns."""
        relative = depth - ALIGNED_DEPTH
        return (
            x * self.cos_yaw + relative * self.sin_yaw,
            y * self.cos_pitch + relative * self.sin_pitch,
        )

    def grid(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Coordinates (n, 1, H, W) of the pixel centres in the frame of the face.

        The height spans [-1, 1]; a narrower image is cut at the sides, as aligned 112x96 crops are.
        """
        device = self._scale.device
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * (2.0 / height) - 1.0
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5 - 0.5 * width) * (
            2.0 / height
        )
        x, y = x[None, None, None, :], y[None, None, :, None]
        x, y = (x - self._shift[0]) * self._scale, (y - self._shift[1]) * self._scale
        return x * self._cos_roll + y * self._sin_roll, y * self._cos_roll - x * self._sin_roll
