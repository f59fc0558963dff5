"""Occlusions of a face in some photos: glasses, a hat, a mask, an object in front of it."""

from collections.abc import Callable

import torch
from torch import Tensor

from fusedface.data.synthetic.named import rotation
from fusedface.data.synthetic.palette import GLASSES, color
from fusedface.data.synthetic.scene import BROWS, EYES, HAIR, MOUTH, Scene

# Share of the images that have it, at full difficulty.
GLASSES_SHARE, HAT_SHARE, MASK_SHARE, BAR_SHARE = 0.35, 0.20, 0.12, 0.30


def draw_occlusions(scene: Scene, head: Tensor, difficulty: float) -> None:
    """Draw the occlusions of each photo; their colours depend on the photo, not on the person."""
    raw = scene.raw
    for draw, chance, share in (
        (_draw_glasses, raw.glasses, GLASSES_SHARE),
        (_draw_hat, raw.hat, HAT_SHARE),
        (_draw_mask, raw.mask, MASK_SHARE),
        (_draw_bar, raw.bar, BAR_SHARE),
    ):
        _draw_on_some(scene, head, draw, 0.5 * (chance + 1.0) < share * difficulty)


def _draw_on_some(
    scene: Scene, head: Tensor, draw: Callable[[Scene, Tensor], None], present: Tensor
) -> None:
    """Few photos have any one occlusion: draw on only those photos."""
    chosen = present.flatten().nonzero().flatten()
    if len(chosen):
        some = scene.take(chosen)
        draw(some, head[chosen])
        scene.canvas.rgb[chosen] = some.canvas.rgb


def _paint_color(scene: Scene) -> Tensor:
    raw = scene.raw
    return torch.cat([raw.cloth, raw.warm, raw.tint], dim=1) * 0.4 + 0.5


def _draw_glasses(scene: Scene, head: Tensor) -> None:  # noqa: ARG001  as the others take
    """Rims, tinted glass and a bridge."""
    canvas, p, raw, pose = scene.canvas, scene.p, scene.raw, scene.pose
    rim = color(*GLASSES, p.skin) + 0.25 * raw.tint.clamp(min=0.0)
    rx, ry = (0.175 + 0.02 * raw.cloth) * pose.cos_yaw, 0.125 + 0.025 * raw.warm
    tint = 0.12 + 0.75 * (raw.glasses_dark - 0.6).clamp(min=0.0)
    for side in (-1.0, 1.0):
        x, y = pose.place(side * p.eye_distance, p.eye_height + 0.015, EYES + 0.12)
        outer, inner = canvas.ellipse(x, y, rx, ry), canvas.ellipse(x, y, rx - 0.03, ry - 0.03)
        canvas.paint(inner * tint, rim)
        canvas.paint((outer - inner).clamp_(min=0.0), rim)
    x, y = pose.place(0.0, p.eye_height, BROWS + 0.12)
    bridge = torch.minimum(
        p.eye_distance - rx + 0.01 - (canvas.x - x).abs(), 0.016 - (canvas.y - y).abs()
    )
    canvas.paint(canvas.edge(bridge), rim)


def _draw_hat(scene: Scene, head: Tensor) -> None:  # noqa: ARG001  as the others take
    """A crown as wide as the head, and a brim."""
    canvas, p = scene.canvas, scene.p
    paint = _paint_color(scene)
    x, y = scene.pose.place(0.0, p.hairline + 0.10, HAIR)
    off = canvas.x - x
    above = y - canvas.y + 0.12 * (off * off)
    beside = p.face_width + 0.10 + 0.5 * p.hair_volume - off.abs()
    canvas.paint(canvas.edge(torch.minimum(above, beside)), paint)
    brim = torch.minimum(0.055 - above.abs_(), beside + 0.16)
    canvas.paint(canvas.edge(brim), paint * 0.7)


def _draw_mask(scene: Scene, head: Tensor) -> None:
    """Cloth over nose and mouth, as far as the head goes, with two folds."""
    canvas, p = scene.canvas, scene.p
    x, y = scene.pose.place(0.0, p.mouth_height, MOUTH)
    off = canvas.x - x
    below = canvas.y - (y - 0.30 + 0.35 * (off * off))
    paint = _paint_color(scene).flip(1) * 0.5 + 0.4
    cloth = canvas.edge(torch.minimum(below, 0.85 - below)) * head
    canvas.paint(cloth, paint * (1.0 - 0.25 * off.abs()))
    for fold in (0.25, 0.42):
        canvas.shade(canvas.edge(0.012 - (below - fold).abs()) * cloth, 0.82)


def _draw_bar(scene: Scene, head: Tensor) -> None:  # noqa: ARG001  as the others take
    """A straight bar across the picture."""
    canvas, raw = scene.canvas, scene.raw
    cos, sin = rotation(1.6 * raw.bar_angle)
    across = canvas.x * cos + canvas.y * sin - 0.9 * raw.bar_offset
    canvas.paint(canvas.edge(0.13 + 0.06 * raw.cloth - across.abs()), _paint_color(scene) * 0.8)
