"""A face, feature by feature, from back to front."""

import torch
from torch import Tensor

from fusedface.data.synthetic.canvas import Canvas
from fusedface.data.synthetic.parameters import Named
from fusedface.data.synthetic.pose import Pose

# How far features stand out of the plane of the head, in half image sides.
EYES, BROWS, NOSE, MOUTH, CHIN, EARS, HAIR, HEAD = 0.42, 0.46, 0.80, 0.55, 0.40, -0.15, 0.15, 0.0
DARK = (0.06, 0.04, 0.05)


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


def draw_face(canvas: Canvas, p: Named, c: Named, pose: Pose, texture: Tensor) -> None:
    """Draw a person under the conditions of a photo.

    Args:
        canvas: with the background.
        p: traits of the people.
        c: conditions, scaled by the difficulty.
        pose: where features are seen.
        texture: (n, 1, H, W), grain of hair and skin around 0.
    """
    skin, hair = skin_color(p), hair_color(p)
    strands = hair * (1.0 + 0.3 * texture)
    draw_back_hair(canvas, p, pose, strands)
    draw_neck(canvas, p, c, pose, skin)
    for side in (-1.0, 1.0):
        x, y = pose.place(side * (p.face_width + 0.01), p.eye_height + 0.16, EARS)
        canvas.paint(canvas.ellipse(x, y, p.ears * 0.6, p.ears * 1.5), skin * 0.86)
    head = draw_head(canvas, p, c, pose, skin, texture)
    draw_beard(canvas, p, pose, strands, head, texture)
    draw_nose(canvas, p, c, pose, skin)
    draw_mouth(canvas, p, c, pose, skin)
    for side in (-1.0, 1.0):
        draw_eye(canvas, p, c, pose, skin, side)
        draw_brow(canvas, p, c, pose, strands, side)
    draw_front_hair(canvas, p, pose, strands, head)


def draw_back_hair(canvas: Canvas, p: Named, pose: Pose, strands: Tensor) -> None:
    """Hair behind the head: a cap, and as far down as it is long."""
    x, y = pose.place(0.0 * p.skin, -0.25 + 0.0 * p.skin, HAIR)
    width = p.face_width + 0.05 + p.hair_volume
    cap = canvas.ellipse(x, y, width, 0.72 + p.hair_volume)
    down = torch.minimum(width - (canvas.x - x).abs(), canvas.y + 0.25)
    fall = canvas.edge(torch.minimum(down, p.hair_length - canvas.y))
    has_hair = 1.0 - p.bald.clamp(0.0, 1.0)
    canvas.paint(torch.maximum(cap, fall) * has_hair, strands * 0.75)


def draw_neck(canvas: Canvas, p: Named, c: Named, pose: Pose, skin: Tensor) -> None:
    """Neck and clothes, at the lower edge."""
    x, _ = pose.place(0.0 * p.skin, 0.0 * p.skin, HEAD)
    neck = torch.minimum(p.face_width * 0.66 - (canvas.x - x).abs(), canvas.y - 0.5)
    canvas.paint(canvas.edge(neck), skin * 0.68)
    cloth = color(0.35 + 0.3 * c.cloth, 0.38 - 0.2 * c.cloth, 0.42 + 0.25 * c.warm, p.skin)
    shoulders = canvas.y - 1.02 - 0.25 * (canvas.x - x).square()
    canvas.paint(canvas.edge(shoulders), cloth)


def draw_head(
    canvas: Canvas, p: Named, c: Named, pose: Pose, skin: Tensor, texture: Tensor
) -> Tensor:
    """The skin with its shading; returns its mask."""
    x0, y0 = pose.place(0.0 * p.skin, 0.08 + 0.0 * p.skin, HEAD)
    v = (canvas.y - y0) / torch.where(canvas.y < y0, 1.08, p.face_length - 0.05)
    v2 = v * v
    square = torch.where(canvas.y < y0, 0.35, p.jaw)
    half = (1.0 - v2 * (1.0 - square) - v2 * v2 * square).clamp_(min=0.0).sqrt_()
    half = half * p.face_width * (1.0 + p.cheek * (1.0 - v2).clamp(min=0.0) * v) * pose.cos_yaw
    u = (canvas.x - x0) / half.clamp(min=0.02)
    head = canvas.edge((half - (canvas.x - x0).abs()) * (1.0 - 0.35 * v2).clamp(min=0.1))
    light = 0.30 * (c.light_strength + 1.0)
    lit = 1.0 + light * (c.light_x * u + c.light_y * v) - 0.20 * u * u * u * u - 0.10 * v2
    canvas.paint(head, skin * (lit.clamp(0.25, 1.6) + 0.05 * texture))
    draw_skin_marks(canvas, p, pose, skin, head, texture)
    return head


def draw_skin_marks(
    canvas: Canvas, p: Named, pose: Pose, skin: Tensor, head: Tensor, texture: Tensor
) -> None:
    """Blush, freckles, a mole, the chin."""
    for side in (-1.0, 1.0):
        x, y = pose.place(side * p.face_width * 0.58, 0.32 + 0.0 * p.skin, CHIN)
        cheek = canvas.bump(x, y, 0.26 + 0.0 * p.skin, 0.22 + 0.0 * p.skin)
        canvas.paint(cheek * p.blush * head, skin * color(1.02, 0.72, 0.70, p.skin))
        spots = (texture - 0.12).clamp(min=0.0).mul_(5.0).clamp_(max=1.0)
        canvas.shade(cheek * spots * p.freckles.clamp(min=0.0) * head, 0.55)
    x, y = pose.place(p.mole_x, p.mole_y, CHIN)
    mole = canvas.ellipse(x, y, 0.022 + 0.0 * p.skin, 0.022 + 0.0 * p.skin)
    canvas.shade(mole * p.mole.clamp(0.0, 1.0).sqrt() * head, 0.35)
    x, y = pose.place(0.0 * p.skin, p.face_length - 0.16, CHIN)
    canvas.shade(canvas.bump(x, y - 0.10, 0.22 + 0.0 * p.skin, 0.05 + 0.0 * p.skin) * p.chin, 0.72)


def draw_beard(
    canvas: Canvas, p: Named, pose: Pose, strands: Tensor, head: Tensor, texture: Tensor
) -> None:
    """Beard along the jaw and moustache, from stubble to full."""
    x, y = pose.place(0.0 * p.skin, p.mouth_height, MOUTH)
    grain = (0.85 + 0.9 * texture).clamp(0.0, 1.0)
    around = 1.0 - canvas.ellipse(x, y - 0.22, p.face_width * 0.74, 0.36 + 0.0 * p.skin)
    low = canvas.edge((canvas.y - 0.26) * 0.25)
    canvas.paint(head * low * around * grain * p.beard.clamp(0.0, 0.9), strands * 0.9)
    middle = y - 0.5 * (p.mouth_height - p.nose_length) + 0.03
    shape = canvas.ellipse(x, middle, p.mouth_width * 0.95, 0.055 + 0.0 * p.skin)
    canvas.paint(shape * grain * p.moustache.clamp(0.0, 0.9), strands * 0.9)


def draw_nose(canvas: Canvas, p: Named, c: Named, pose: Pose, skin: Tensor) -> None:
    """Bridge, tip, wings and nostrils, by light and shadow."""
    tip_x, tip_y = pose.place(p.asymmetry, p.nose_length, NOSE)
    top_x, top_y = pose.place(0.0 * p.skin, p.eye_height + 0.02, EYES)
    along = ((canvas.y - top_y) / (tip_y - top_y)).clamp(0.0, 1.0)
    axis = top_x + (tip_x - top_x) * along
    width = p.nose_bridge + (p.nose_width - p.nose_bridge) * along * along
    inside = canvas.edge((canvas.y - top_y) * 0.3) * canvas.edge((tip_y + 0.02 - canvas.y) * 0.6)
    off = (canvas.x - axis) / width
    side = (1.0 - (off.abs() - 0.9).abs() * 1.6).clamp(min=0.0)
    canvas.shade(side * inside * p.nose_depth, 0.80 + 0.10 * c.light_x * off)
    canvas.shade((1.0 - off * off * 3.0).clamp(min=0.0) * inside, 1.0 + 0.12 * p.nose_depth)
    canvas.shade(canvas.bump(tip_x, tip_y - 0.03, p.nose_width * 0.8, 0.07 + 0.0 * p.skin), 1.10)
    canvas.shade(canvas.bump(tip_x, tip_y + 0.05, p.nose_width * 1.5, 0.05 + 0.0 * p.skin), 0.72)
    for sign in (-1.0, 1.0):
        x = tip_x + sign * p.nose_width * 0.55
        nostril = canvas.ellipse(x, tip_y + 0.025, p.nose_width * 0.26, 0.017 + 0.0 * p.skin)
        canvas.paint(nostril * 0.85, skin * 0.28)


def draw_mouth(canvas: Canvas, p: Named, c: Named, pose: Pose, skin: Tensor) -> None:
    """Lips, what is between them, and the shadow below."""
    x, y = pose.place(p.asymmetry, p.mouth_height, MOUTH)
    width = p.mouth_width * (1.0 + 0.14 * c.smile) * pose.cos_yaw
    u = canvas.x - x
    v = canvas.y - y + 1.1 * c.smile * u * u - 0.05 * c.smile
    gap = (0.10 * c.mouth_open).clamp(min=0.0)
    red = 0.35 + 0.65 * p.lip_red
    lips = skin * color(1.0 - 0.12 * red, 1.0 - 0.48 * red, 1.0 - 0.42 * red, p.skin)
    canvas.shade(
        canvas.bump(x, y + p.lower_lip + gap + 0.06, width * 0.7, 0.06 + 0.0 * p.skin), 0.80
    )
    canvas.paint(
        canvas.lens(u, v, width, p.upper_lip + gap * 0.5, 0.01 + 0.0 * p.skin), lips * 0.88
    )
    canvas.paint(canvas.lens(u, v, width, 0.01 + 0.0 * p.skin, p.lower_lip + gap), lips)
    opening = canvas.lens(u, v, width * 0.86, 0.008 + gap * 0.45, 0.008 + gap)
    canvas.paint(opening, color(0.20, 0.06, 0.07, p.skin))
    teeth = canvas.lens(u, v, width * 0.7, gap * 0.4, gap * 0.25)
    canvas.paint(teeth * canvas.edge(gap - 0.02), color(0.90, 0.88, 0.83, p.skin))


def draw_eye(canvas: Canvas, p: Named, c: Named, pose: Pose, skin: Tensor, side: float) -> None:
    """Socket, white, iris, pupil, glint and lids of one eye."""
    x, y = pose.place(side * p.eye_distance, p.eye_height + side * p.asymmetry, EYES)
    width = p.eye_width * (pose.cos_yaw - 0.3 * side * pose.sin_yaw)
    u, v = canvas.x - x, canvas.y - y
    v = v + side * p.eye_tilt * u
    opening = p.eye_opening * (1.0 - 0.9 * (2.0 * c.blink - 1.0).clamp(min=0.0))
    canvas.shade(canvas.bump(x, y - 0.02, width * 1.7, p.eye_opening * 2.4), 0.82)
    canvas.shade(canvas.bump(x, y + p.eye_opening * 1.7, width, 0.05 + 0.0 * p.skin) * p.bags, 0.72)
    white = canvas.lens(u, v, width, opening, opening * 0.75)
    canvas.paint(white, color(0.92, 0.91, 0.89, p.skin))
    iris_x, iris_y = x + 0.03 * c.gaze, y - 0.004
    iris = canvas.ellipse(iris_x, iris_y, p.iris_size, p.iris_size)
    canvas.paint(iris * white, iris_color(p))
    pupil = canvas.ellipse(iris_x, iris_y, p.iris_size * 0.45, p.iris_size * 0.45)
    canvas.paint(pupil * white, color(*DARK, p.skin))
    small = 0.011 + 0.0 * p.skin
    glint = canvas.ellipse(iris_x - 0.014, iris_y - 0.018, small, small)
    canvas.paint(glint * white, color(0.97, 0.97, 0.97, p.skin))
    arch = (1.0 - (u / width).square()).clamp_(min=0.0)
    ends = canvas.edge(width - 0.01 - u.abs())
    lid = canvas.edge(0.013 * p.lid + 0.004 - (v + arch * opening).abs()) * ends
    canvas.paint(lid * 0.9, skin * 0.22)
    fold = canvas.edge(0.006 - (v + arch * opening + 0.032).abs()) * ends
    canvas.shade(fold * p.lid, 0.72)


def iris_color(p: Named) -> Tensor:
    """Brown to green to blue, dark to light."""
    hue = p.iris_hue
    light = 0.35 + 0.5 * p.iris_light
    return color(0.62 - 0.45 * hue, 0.38 + 0.22 * hue, 0.16 + 0.70 * hue * hue, hue) * light


def draw_brow(canvas: Canvas, p: Named, c: Named, pose: Pose, strands: Tensor, side: float) -> None:
    """One eyebrow: a tilted, arched band that thins out."""
    gap = p.brow_gap * (1.0 + 0.25 * c.brow_raise)
    x, y = pose.place(side * (p.eye_distance + 0.015), p.eye_height - gap, BROWS)
    width = p.brow_width * (pose.cos_yaw - 0.3 * side * pose.sin_yaw)
    u = (canvas.x - x) / width
    arch = (1.0 - u * u).clamp(min=0.0)
    v = canvas.y - y - side * p.brow_tilt * width * u + p.brow_arch * arch
    band = canvas.edge(p.brow_thickness * (0.25 + 0.75 * arch) - v.abs())
    band = band * canvas.edge((1.0 - u.abs()) * 0.1)
    canvas.paint(band * 0.92, strands * 0.80)


def draw_front_hair(canvas: Canvas, p: Named, pose: Pose, strands: Tensor, head: Tensor) -> None:
    """Hair over the forehead, down to a parted, bent hairline."""
    x, _ = pose.place(p.parting * 0.5, 0.0 * p.skin, HAIR)
    off = canvas.x - x
    line = p.hairline + p.hairline_bend * off * off + 0.25 * p.parting * off
    has_hair = 1.0 - p.bald.clamp(0.0, 1.0)
    canvas.paint(canvas.edge((line - canvas.y) * 0.6) * head * has_hair, strands)
