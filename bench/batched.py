"""Augmentation of a whole batch at once, in torch, on any device; `bench data` compares it with ours.

It does the work of the presets "crop" and "color" of data/transforms.py together. One resampling mirrors,
crops and scales back up. One 3x3 matrix per image changes brightness, saturation and hue; contrast follows.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

CROP_SHARE, COLOR_SHARE = 0.5, 0.5  # share of the images that are changed
AREA, RATIO, FACTOR, HUE = (0.8, 1.0), (0.9, 1.1), (0.7, 1.3), 0.03
LUMA = (0.299, 0.587, 0.114)
# RGB to YIQ: luma and two axes of colour. A rotation in the plane of the two changes only the hue.
TO_YIQ = (LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


class Choices(NamedTuple):
    """Drawn parameters of the augmentation of B images."""

    affine: Tensor  # (B, 2, 3): output to input coordinates, both in [-1, 1]
    matrix: Tensor  # (B, 3, 3): applied to the colours
    contrast: Tensor  # (B,)


def choose(num_images: int, generator: torch.Generator) -> Choices:
    """Draw the parameters, on the device of the generator."""
    device = generator.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(num_images, device=device).uniform_(low, high, generator=generator)

    def sometimes(share: float) -> Tensor:
        return torch.rand(num_images, device=device, generator=generator) < share

    one, zero = torch.ones(num_images, device=device), torch.zeros(num_images, device=device)
    cropped = sometimes(CROP_SHARE)
    side, ratio = uniform(*AREA).sqrt(), uniform(*RATIO).sqrt()
    width = (side * ratio).clamp(max=1.0).where(cropped, one)
    height = (side / ratio).clamp(max=1.0).where(cropped, one)
    mirrored = one - 2.0 * sometimes(0.5)
    x, y = (1.0 - width) * uniform(-1.0, 1.0), (1.0 - height) * uniform(-1.0, 1.0)
    affine = torch.stack([width * mirrored, zero, x, zero, height, y], 1).view(-1, 2, 3)

    colored = sometimes(COLOR_SHARE)
    brightness, contrast, saturation = (uniform(*FACTOR).where(colored, one) for _ in range(3))
    angle = 2.0 * math.pi * uniform(-HUE, HUE).where(colored, zero)
    return Choices(affine, _color_matrix(brightness, saturation, angle), contrast)


def _color_matrix(brightness: Tensor, saturation: Tensor, angle: Tensor) -> Tensor:
    """(B, 3, 3): in YIQ, saturation scales and hue rotates the two axes of colour."""
    to_yiq = torch.tensor(TO_YIQ, device=angle.device)
    zero = torch.zeros_like(angle)
    cos, sin = saturation * angle.cos(), saturation * angle.sin()
    turn = torch.stack([zero + 1.0, zero, zero, zero, cos, -sin, zero, sin, cos], 1).view(-1, 3, 3)
    return brightness[:, None, None] * (to_yiq.inverse() @ turn @ to_yiq)


def apply(images: Tensor, choices: Choices) -> Tensor:
    """Augment (B, 3, H, W) uint8 images; the result has the same shape and dtype."""
    values = images.float()
    grid = functional.affine_grid(choices.affine, list(values.shape), align_corners=False)
    values = functional.grid_sample(values, grid, padding_mode="border", align_corners=False)
    values = torch.einsum("bij,bjhw->bihw", choices.matrix, values)
    luma = torch.tensor(LUMA, device=values.device)
    mean = torch.einsum("j,bjhw->b", luma, values) / values[0, 0].numel()
    mean = mean[:, None, None, None]
    values = mean + (values - mean) * choices.contrast[:, None, None, None]
    return values.round_().clamp_(0.0, 255.0).to(torch.uint8)
