"""Colours (n, 3, 1, 1) in 0..1 of skin, hair and eyes."""

import torch
from torch import Tensor

from fusedface.data.synthetic.named import Named

PUPIL, EYE_WHITE, GLINT = (0.06, 0.04, 0.05), (0.88, 0.87, 0.85), (0.97, 0.97, 0.97)
MOUTH_INSIDE, TEETH, GLASSES = (0.20, 0.06, 0.07), (0.90, 0.88, 0.83), (0.08, 0.07, 0.07)


def color(red: Tensor | float, green: Tensor | float, blue: Tensor | float, like: Tensor) -> Tensor:
    """(n, 3, 1, 1) from three channels, numbers or (n, 1, 1, 1)."""
    channels = [torch.zeros_like(like) + c for c in (red, green, blue)]
    return torch.cat(channels, dim=1)


def skin_color(p: Named) -> Tensor:
    """From dark to light, and from rosy to olive."""
    light = 0.26 + 0.62 * p.skin
    warm = 0.035 * p.skin_warmth
    return color(
        light * 1.06 + warm,
        light * (0.74 + 0.10 * p.skin),
        light * (0.56 + 0.18 * p.skin) - warm,
        light,
    )


def hair_color(p: Named) -> Tensor:
    """Black, brown, red, blond or grey."""
    light = 0.05 + 0.60 * p.hair * p.hair
    red = 0.25 * p.hair_red * (1.0 - p.hair) * p.hair * 4.0
    natural = color(light + 0.05 + red, light * 0.80 + 0.03, light * 0.50 + 0.02, light)
    grey = p.grey.clamp(0.0, 1.0)
    return natural + grey * (0.62 - natural)


def iris_color(p: Named) -> Tensor:
    """Brown to green to blue, dark to light."""
    hue = p.iris_hue
    light = 0.35 + 0.5 * p.iris_light
    return color(0.62 - 0.45 * hue, 0.38 + 0.22 * hue, 0.16 + 0.70 * hue * hue, hue) * light


def lip_color(p: Named, skin: Tensor) -> Tensor:
    """The skin, redder."""
    red = 0.35 + 0.65 * p.lip_red
    return skin * color(1.0 - 0.12 * red, 1.0 - 0.48 * red, 1.0 - 0.42 * red, red)
