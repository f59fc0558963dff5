"""The picture: its size, how far a head moves in it, and where a feature can therefore be."""

import itertools
import math
from dataclasses import dataclass

# Full difficulty: radians, and half image sides.
ROLL, SCALE, SHIFT = 0.28, 0.12, 0.09


@dataclass(frozen=True)
class Box:
    """The part of a face's frame where a feature can be, for every person and every pose of the head."""

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
        """Rows and columns that contain a box of the face in every picture.

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
