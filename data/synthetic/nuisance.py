"""The background of a face and the effects of the camera: light, blur, noise."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedface.data.synthetic.canvas import Canvas
from fusedface.data.synthetic.named import Named

NUM_TILES = 32  # of each kind; an image uses one or three of a kind


class Tiles(NamedTuple):
    """Fixed patterns (NUM_TILES, H, W), standard deviation 1."""

    noise: Tensor
    """White: of the camera."""
    grain: Tensor
    """Grain of about two pixels: skin, stubble, curls."""
    streaks: Tensor
    """Long and upright: hair."""


def make_tiles(height: int, width: int, device: torch.device) -> Tiles:
    """Draw the patterns; the same for everyone."""
    generator = torch.Generator().manual_seed(20200618)
    noise = torch.randn(NUM_TILES, height, width, generator=generator)
    patterns = noise, smooth(noise[:, None], 3, 3)[:, 0], smooth(noise[:, None], 11, 1)[:, 0]
    return Tiles(*((t / t.std()).to(device) for t in patterns))


def pick_tile(tiles: Tensor, where: Tensor) -> Tensor:
    """One tile each, (n, 1, H, W), by a number (n, 1, 1, 1) in [-1, 1)."""
    index = ((where.flatten() + 1.0) * (0.5 * NUM_TILES)).long().clamp(0, NUM_TILES - 1)
    return tiles[index][:, None]


def draw_background(canvas: Canvas, c: Named) -> None:
    """A gradient between two colours and a blob."""
    base = torch.cat([c.background_r, c.background_g, c.background_b], dim=1) * 0.35 + 0.48
    slope = (0.18 * c.background_x) * canvas.x + (0.18 * c.background_y) * canvas.y
    torch.add(base, slope, out=canvas.rgb)
    radius = torch.full_like(c.warm, 0.5)
    blob = canvas.bump(1.2 * c.background_y, c.background_x - 0.4, radius, radius)
    canvas.paint(blob * 0.6, base.flip(1) * (0.9 + 0.4 * c.background_blob))


def take_photo(canvas: Canvas, c: Named, tiles: Tensor) -> Tensor:
    """Light, colour, blur, resolution and noise: (n, 3, H, W) in 0..1."""
    gain = 1.0 + 0.35 * c.gain
    tone = torch.cat([gain + 0.14 * c.warm, gain + 0.07 * c.tint, gain - 0.14 * c.warm], dim=1)
    contrast = 1.0 + 0.3 * c.contrast
    rgb = canvas.rgb.mul_(tone * contrast).add_(0.5 - 0.5 * contrast)
    blur = c.blur.abs()
    _mix_in(rgb, 1.4 * blur, lambda x: smooth(x, 3, 3))
    _mix_in(rgb, 2.2 * blur - 1.2, lambda x: smooth(x, 5, 5))
    _mix_in(rgb, 2.0 * c.motion - 0.9, lambda x: smooth(x, 1, 7))
    _mix_in(rgb, -2.0 * c.motion - 0.9, lambda x: smooth(x, 7, 1))
    _mix_in(rgb, 2.5 * c.low_resolution.abs() - 1.4, coarse)
    strength = 0.004 + 0.05 * c.noise.abs() * c.noise.abs()
    for channel, tile in enumerate((c.tile_0, c.tile_1, c.tile_2)):
        rgb[:, channel : channel + 1] += strength * pick_tile(tiles, tile)
    return rgb.clamp_(0.0, 1.0)


def _mix_in(rgb: Tensor, share: Tensor, effect: Callable[[Tensor], Tensor]) -> None:
    """Replace a share of each image, clamped to 0..1, by an effect; most images have none of it."""
    chosen = (share.flatten() > 0.0).nonzero().flatten()
    if len(chosen):
        some = rgb[chosen]
        share = share[chosen].clamp(0.0, 1.0)
        rgb[chosen] = some + (effect(some) - some).mul_(share)


def smooth(rgb: Tensor, down: int, across: int) -> Tensor:
    """Mean over a window of odd sides; the edge pixels are repeated outside."""
    height, width = rgb.shape[2:]
    padded = F.pad(rgb, (across // 2, across // 2, down // 2, down // 2), mode="replicate")
    rows = padded[:, :, :height].clone()
    for start in range(1, down):
        rows += padded[:, :, start : start + height]
    total = rows[..., :width].clone()
    for start in range(1, across):
        total += rows[..., start : start + width]
    return total.mul_(1.0 / (down * across))


def coarse(rgb: Tensor) -> Tensor:
    """A third of the resolution, scaled up again."""
    small = F.avg_pool2d(rgb, 3, ceil_mode=True, count_include_pad=False)
    return F.interpolate(small, size=rgb.shape[2:], mode="bilinear", align_corners=False)
