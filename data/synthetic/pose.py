"""Pose: where a feature at some depth is seen, and the pixel grid of a turned, shifted head."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fusedface.data.synthetic.parameters import Named, rotation

# Full difficulty: radians, and half image sides.
YAW, PITCH, ROLL, SCALE, SHIFT = 0.65, 0.40, 0.28, 0.12, 0.09
# Images are aligned by eyes, nose and mouth, whose mean depth this is; it does not move with the head.
ALIGNED_DEPTH = 0.48


@dataclass(frozen=True)
class Box:
    """Where a feature can be in the frame of a face, whoever's it is and however the head is turned."""

    left: float
    top: float
    right: float
    bottom: float

    def on(self, side: float) -> "Box":
        """The box itself (1), or that of the feature on the other side of the face (-1)."""
        return self if side > 0 else Box(-self.right, self.top, -self.left, self.bottom)


@dataclass(frozen=True)
class Frame:
    """The picture: H and W in pixels, and how far heads roll, come near and shift in it."""

    height: int
    width: int
    difficulty: float

    def pixels(self, box: Box) -> tuple[slice, slice]:
        """Rows and columns beyond which a box of the face is in no picture.

        The same for all images, so that a feature costs a few strided operations for a whole batch.
        """
        roll, shift = ROLL * self.difficulty, SHIFT * self.difficulty + 6.0 / self.height
        corners = itertools.product((box.left, box.right), (box.top, box.bottom))
        # A corner moves on an arc, which may bulge beyond its ends where it crosses an axis.
        turns = [roll * k / 8.0 for k in range(-8, 9)]
        sizes = (1.0 - SCALE * self.difficulty, 1.0 + SCALE * self.difficulty)
        seen = [
            (s * (x * math.cos(t) - y * math.sin(t)), s * (x * math.sin(t) + y * math.cos(t)))
            for x, y in corners
            for t in turns
            for s in sizes
        ]
        across, down = zip(*seen, strict=True)
        columns = _span(min(across) - shift, max(across) + shift, self.width, self.height)
        return _span(min(down) - shift, max(down) + shift, self.height, self.height), columns


def _span(low: float, high: float, count: int, height: int) -> slice:
    """The pixels of an axis between two coordinates."""
    first = math.floor((low * height + count) / 2.0)
    last = math.ceil((high * height + count) / 2.0)
    return slice(min(max(first, 0), count - 1), max(min(last, count), 1))


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
        """Where a point of the face is seen: a depth shifts it as the head turns."""
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
