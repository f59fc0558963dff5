"""Soft shapes on a batch of pictures.

Only +, -, *, / and square roots are used on whole pictures: those round the same everywhere, so an image
does not depend on its batch.
"""

import torch
from torch import Tensor


class Canvas:
    """n pictures in the making and the coordinates of their pixels.

    Attributes:
        rgb: (n, 3, H, W) float32 in 0..1.
        x, y: (n, 1, H, W), in the frame of the face; half image sides, right and down.
    """

    def __init__(self, x: Tensor, y: Tensor, softness: float) -> None:
        self.x, self.y, self.softness = x, y, softness
        self.rgb = torch.zeros(x.shape[0], 3, *x.shape[2:], device=x.device)

    def edge(self, distance: Tensor) -> Tensor:
        """Mask of a shape from the distance into it: 0 outside, 1 inside, soft over a pixel or so."""
        return distance.mul(self.softness).add_(0.5).clamp_(0.0, 1.0)

    def paint(self, mask: Tensor, color: Tensor) -> None:
        """Lay a colour (n, 3, 1, 1), or a picture, over the masked part (n, 1, H, W)."""
        self.rgb.add_((color - self.rgb).mul_(mask))

    def shade(self, mask: Tensor, factor: Tensor | float) -> None:
        """Multiply the masked part by a factor."""
        self.rgb.mul_(1.0 + mask * (factor - 1.0))

    def ellipse(self, cx: Tensor, cy: Tensor, rx: Tensor, ry: Tensor) -> Tensor:
        """Mask of an ellipse."""
        u, v = (self.x - cx) / rx, (self.y - cy) / ry
        radius = u.mul_(u).add_(v.mul_(v)).sqrt_()
        return self.edge((1.0 - radius) * torch.minimum(rx, ry))

    def bump(self, cx: Tensor, cy: Tensor, rx: Tensor, ry: Tensor) -> Tensor:
        """A smooth hill that is 1 at its centre and 0 at the ellipse."""
        u, v = (self.x - cx) / rx, (self.y - cy) / ry
        hill = u.mul_(u).add_(v.mul_(v)).neg_().add_(1.0).clamp_(min=0.0)
        return hill.mul_(hill)

    def lens(self, u: Tensor, v: Tensor, width: Tensor, upper: Tensor, lower: Tensor) -> Tensor:
        """Mask of an almond between two parabolas, in its own coordinates u (along) and v (down)."""
        arch = (1.0 - (u / width).square()).clamp_(min=0.0)
        between = torch.minimum(arch * lower - v, arch * upper + v)
        return self.edge(torch.minimum(between, width - u.abs()))
