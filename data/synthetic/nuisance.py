"""What lies before the face and what the camera does: occlusions, light, blur, noise."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedface.data.synthetic.canvas import Canvas
from fusedface.data.synthetic.face import BROWS, EYES, HAIR, MOUTH, color
from fusedface.data.synthetic.parameters import Named, rotation
from fusedface.data.synthetic.pose import Pose

NUM_TILES = 32  # of noise, of which each image takes three
# Share of the images that have it, at full difficulty.
GLASSES, HAT, MASK, BAR = 0.35, 0.20, 0.12, 0.30


def noise_tiles(height: int, width: int, device: torch.device) -> Tensor:
    """Fixed grain (NUM_TILES, H, W), standard deviation 1."""
    generator = torch.Generator().manual_seed(20200618)
    return torch.randn(NUM_TILES, height, width, generator=generator).to(device)


def pick_tile(tiles: Tensor, where: Tensor) -> Tensor:
    """One tile each, (n, 1, H, W), by a number (n, 1, 1, 1) in [-1, 1)."""
    index = ((where.flatten() + 1.0) * (0.5 * NUM_TILES)).long().clamp(0, NUM_TILES - 1)
    return tiles[index][:, None]


def happens(chance: Tensor, share: float, difficulty: float) -> Tensor:
    """1.0 for a `share` of images that grows with the difficulty, else 0.0; chance in [-1, 1)."""
    return (0.5 * (chance + 1.0) < share * difficulty).float()


def draw_background(canvas: Canvas, c: Named) -> None:
    """A gradient between two colours and a blob."""
    base = torch.cat([c.background_r, c.background_g, c.background_b], dim=1) * 0.35 + 0.48
    slope = 0.18 * (c.background_x * canvas.x + c.background_y * canvas.y)
    canvas.rgb.copy_(base + slope)
    radius = 0.5 + 0.0 * c.warm
    blob = canvas.bump(1.2 * c.background_y, c.background_x - 0.4, radius, radius)
    canvas.paint(blob * 0.6, base.flip(1) * (0.9 + 0.4 * c.background_blob))


def draw_occlusions(canvas: Canvas, p: Named, raw: Named, pose: Pose, difficulty: float) -> None:
    """Glasses, a hat, a mask, something held before the face; colours from the photo, not the person."""
    draw_glasses(canvas, p, raw, pose, happens(raw.glasses, GLASSES, difficulty))
    paint = torch.cat([raw.cloth, raw.warm, raw.tint], dim=1) * 0.4 + 0.5
    _, y = pose.place(0.0 * p.skin, p.hairline + 0.12, HAIR)
    brim = y - canvas.y - 0.15 * (canvas.x * canvas.x)
    canvas.paint(canvas.edge(brim) * happens(raw.hat, HAT, difficulty), paint)
    x, y = pose.place(0.0 * p.skin, p.mouth_height, MOUTH)
    cover = canvas.ellipse(x, y + 0.15, p.face_width * 0.85, 0.44 + 0.0 * p.skin)
    canvas.paint(cover * happens(raw.mask, MASK, difficulty), paint.flip(1) * 0.6 + 0.4)
    cos, sin = rotation(1.6 * raw.bar_angle)
    across = canvas.x * cos + canvas.y * sin - 0.9 * raw.bar_offset
    bar = canvas.edge(0.13 + 0.06 * raw.cloth - across.abs())
    canvas.paint(bar * happens(raw.bar, BAR, difficulty), paint * 0.8)


def draw_glasses(canvas: Canvas, p: Named, raw: Named, pose: Pose, present: Tensor) -> None:
    """Rims, tinted glass and a bridge."""
    rim = color(0.08, 0.07, 0.07, p.skin) + 0.25 * raw.tint.clamp(min=0.0)
    rx, ry = 0.175 + 0.02 * raw.cloth, 0.125 + 0.025 * raw.warm
    for side in (-1.0, 1.0):
        x, y = pose.place(side * p.eye_distance, p.eye_height + 0.015, EYES + 0.12)
        outer, inner = canvas.ellipse(x, y, rx, ry), canvas.ellipse(x, y, rx - 0.03, ry - 0.03)
        canvas.paint(inner * present * (0.12 + 0.75 * (raw.glasses_dark - 0.6).clamp(min=0.0)), rim)
        canvas.paint((outer - inner).clamp(min=0.0) * present, rim)
    x, y = pose.place(0.0 * p.skin, p.eye_height, BROWS + 0.12)
    bridge = torch.minimum(
        p.eye_distance - rx + 0.01 - (canvas.x - x).abs(), 0.016 - (canvas.y - y).abs()
    )
    canvas.paint(canvas.edge(bridge) * present, rim)


def take_photo(canvas: Canvas, c: Named, tiles: Tensor) -> Tensor:
    """Light, colour, blur, resolution and noise: (n, 3, H, W) in 0..1."""
    rgb = canvas.rgb
    gain = 1.0 + 0.35 * c.gain
    tone = torch.cat([gain + 0.14 * c.warm, gain + 0.07 * c.tint, gain - 0.14 * c.warm], dim=1)
    rgb = (rgb * tone - 0.5) * (1.0 + 0.3 * c.contrast) + 0.5
    rgb = torch.lerp(rgb, blurred(rgb, 3), (1.4 * c.blur.abs()).clamp(max=1.0))
    rgb = torch.lerp(rgb, blurred(rgb, 5), (2.2 * c.blur.abs() - 1.2).clamp(0.0, 1.0))
    rgb = torch.lerp(rgb, blurred(rgb, (1, 7)), (2.0 * c.motion - 0.9).clamp(0.0, 1.0))
    rgb = torch.lerp(rgb, blurred(rgb, (7, 1)), (-2.0 * c.motion - 0.9).clamp(0.0, 1.0))
    rgb = torch.lerp(rgb, coarse(rgb), (2.5 * c.low_resolution.abs() - 1.4).clamp(0.0, 1.0))
    grain = torch.cat([pick_tile(tiles, t) for t in (c.tile_0, c.tile_1, c.tile_2)], dim=1)
    return (rgb + (0.004 + 0.05 * c.noise.abs() * c.noise.abs()) * grain).clamp_(0.0, 1.0)


def blurred(rgb: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Mean over a window of odd sides."""
    height, width = (size, size) if isinstance(size, int) else size
    padded = F.pad(rgb, (width // 2, width // 2, height // 2, height // 2), mode="replicate")
    return F.avg_pool2d(padded, (height, width), stride=1)


def coarse(rgb: Tensor) -> Tensor:
    """A third of the resolution, scaled up again."""
    small = F.avg_pool2d(rgb, 3, ceil_mode=True, count_include_pad=False)
    return F.interpolate(small, size=rgb.shape[2:], mode="bilinear", align_corners=False)
