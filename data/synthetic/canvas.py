"""Soft shapes on a batch of pictures.

Whole pictures use only +, -, *, / and square roots. These round the same way everywhere, so an image
does not depend on its batch.
"""

from types import EllipsisType

import torch
from torch import Tensor

from fusedface.data.synthetic.frame import Box, Frame


class Canvas:
    """n unfinished pictures and the coordinates of their pixels.

    Attributes:
        rgb: (n, 3, H, W) float32 in 0..1.
        x, y: (n, 1, H, W), in the frame of the face; half image sides, right and down.
        frame: the whole picture, also if this canvas covers only a part of it.
    """

    def __init__(
        self,
        rgb: Tensor,
        x: Tensor,
        y: Tensor,
        frame: Frame,
        at: tuple[slice | EllipsisType, ...] = (...,),
    ) -> None:
        self.rgb, self.x, self.y, self.frame, self._at = rgb, x, y, frame, at
        self._softness = frame.height / 2.0  # an edge is a pixel wide

    def window(self, box: Box) -> "Canvas":
        """A view of the part of the pictures where a box of the face can be, to paint on that part."""
        rows, columns = self.frame.pixels(box)
        at = (slice(None), slice(None), rows, columns)
        return Canvas(self.rgb[at], self.x[at], self.y[at], self.frame, at)

    def of(self, whole: Tensor) -> Tensor:
        """The part of a picture (n, C, H, W) that this window shows."""
        return whole[self._at]

    def take(self, chosen: Tensor) -> "Canvas":
        """Copies of some of the pictures, by index (k,)."""
        return Canvas(self.rgb[chosen], self.x[chosen], self.y[chosen], self.frame)

    def edge(self, distance: Tensor) -> Tensor:
        """Mask of a shape from the distance into it: 0 outside, 1 inside, soft over a pixel or so."""
        return distance.mul(self._softness).add_(0.5).clamp_(0.0, 1.0)

    def paint(self, mask: Tensor, color: Tensor) -> None:
        """Paint a colour (n, 3, 1, 1), or a picture, over the masked part (n, 1, H, W)."""
        self.rgb.add_((color - self.rgb).mul_(mask))

    def shade(self, mask: Tensor, factor: Tensor | float) -> None:
        """Multiply the masked part by a factor."""
        self.rgb.mul_((mask * (factor - 1.0)).add_(1.0))

    def ellipse(self, cx: Tensor, cy: Tensor, rx: Tensor, ry: Tensor) -> Tensor:
        """Mask of an ellipse."""
        return self.edge(self.into_ellipse(cx, cy, rx, ry))

    def into_ellipse(self, cx: Tensor, cy: Tensor, rx: Tensor, ry: Tensor) -> Tensor:
        """Approximate distance into an ellipse, negative outside."""
        u, v = (self.x - cx).div_(rx), (self.y - cy).div_(ry)
        radius = u.mul_(u).add_(v.mul_(v)).sqrt_()
        return radius.neg_().add_(1.0).mul_(torch.minimum(rx, ry))

    def bump(self, cx: Tensor, cy: Tensor, rx: Tensor, ry: Tensor | float) -> Tensor:
        """A smooth hill that is 1 at its centre and 0 at the ellipse."""
        u, v = (self.x - cx).div_(rx), (self.y - cy).div_(ry)
        hill = u.mul_(u).add_(v.mul_(v)).neg_().add_(1.0).clamp_(min=0.0)
        return hill.mul_(hill)

    def lens(
        self, u: Tensor, v: Tensor, width: Tensor, upper: Tensor | float, lower: Tensor | float
    ) -> Tensor:
        """Mask of an almond between two parabolas, in its own coordinates u (along) and v (down)."""
        arch = (u / width).square_().neg_().add_(1.0).clamp_(min=0.0)
        between = torch.minimum(arch * lower - v, arch * upper + v)
        return self.edge(torch.minimum(between, width - u.abs()))
