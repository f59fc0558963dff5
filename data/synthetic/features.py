"""Eyes, brows, nose and mouth."""

import torch

from fusedface.data.synthetic.frame import Box
from fusedface.data.synthetic.palette import (
    EYE_WHITE,
    GLINT,
    MOUTH_INSIDE,
    PUPIL,
    TEETH,
    color,
    iris_color,
    lip_color,
)
from fusedface.data.synthetic.scene import BROWS, EYES, MOUTH, NOSE, Scene

EYE_BOX = Box(-0.10, -0.41, 0.68, 0.22)
BROW_BOX = Box(-0.08, -0.58, 0.68, 0.05)
NOSE_BOX = Box(-0.46, -0.15, 0.46, 0.61)
MOUTH_BOX = Box(-0.47, 0.26, 0.47, 1.06)


def draw_nose(scene: Scene) -> None:
    """Bridge, tip, wings and nostrils, by light and shadow."""
    canvas, p, pose = scene.canvas.window(NOSE_BOX), scene.p, scene.pose
    tip_x, tip_y = pose.place(p.asymmetry, p.nose_length, NOSE)
    top_x, top_y = pose.place(0.0, p.eye_height + 0.02, EYES)
    along = ((canvas.y - top_y) / (tip_y - top_y)).clamp_(0.0, 1.0)
    axis = top_x + (tip_x - top_x) * along
    width = p.nose_bridge + (p.nose_width - p.nose_bridge) * along * along
    inside = canvas.edge((canvas.y - top_y) * 0.3) * canvas.edge((tip_y + 0.02 - canvas.y) * 0.6)
    off = (canvas.x - axis) / width
    side = (1.0 - (off.abs() - 0.9).abs() * 1.6).clamp_(min=0.0)
    canvas.shade(side * inside * p.nose_depth, 0.80 + (0.10 * scene.c.light_x) * off)
    ridge = (1.0 - off * off * 3.0).clamp_(min=0.0) * inside
    canvas.shade(ridge, 1.0 + 0.12 * p.nose_depth)
    canvas.shade(canvas.bump(tip_x, tip_y - 0.03, p.nose_width * 0.8, 0.07), 1.10)
    canvas.shade(canvas.bump(tip_x, tip_y + 0.05, p.nose_width * 1.5, 0.05), 0.72)
    height = torch.full_like(tip_x, 0.017)
    for sign in (-1.0, 1.0):
        x = tip_x + sign * p.nose_width * 0.55
        nostril = canvas.ellipse(x, tip_y + 0.025, p.nose_width * 0.26, height)
        canvas.paint(nostril * 0.85, scene.skin * 0.28)


def draw_mouth(scene: Scene) -> None:
    """Lips, the mouth between them, and the shadow below."""
    canvas, p, c, pose = scene.canvas.window(MOUTH_BOX), scene.p, scene.c, scene.pose
    x, y = pose.place(p.asymmetry, p.mouth_height, MOUTH)
    width = p.mouth_width * (1.0 + 0.14 * c.smile) * pose.cos_yaw
    u = canvas.x - x
    v = canvas.y - y + 1.1 * c.smile * (u * u) - 0.05 * c.smile
    gap = (0.10 * c.mouth_open).clamp(min=0.0)
    lips = lip_color(p, scene.skin)
    canvas.shade(canvas.bump(x, y + p.lower_lip + gap + 0.06, width * 0.7, 0.06), 0.80)
    canvas.paint(canvas.lens(u, v, width, p.upper_lip + gap * 0.5, 0.01), lips * 0.88)
    canvas.paint(canvas.lens(u, v, width, 0.01, p.lower_lip + gap), lips)
    opening = canvas.lens(u, v, width * 0.86, 0.008 + gap * 0.45, 0.008 + gap)
    canvas.paint(opening, color(*MOUTH_INSIDE, x))
    teeth = canvas.lens(u, v, width * 0.7, gap * 0.4, gap * 0.25)
    canvas.paint(teeth * canvas.edge(gap - 0.02), color(*TEETH, x))


def draw_eye(scene: Scene, side: float) -> None:
    """Socket, white, iris, pupil, glint and lids of one eye."""
    canvas, p, c, pose = scene.canvas.window(EYE_BOX.on(side)), scene.p, scene.c, scene.pose
    x, y = pose.place(side * p.eye_distance, p.eye_height + side * p.asymmetry, EYES)
    width = p.eye_width * (pose.cos_yaw - 0.3 * side * pose.sin_yaw)
    u = canvas.x - x
    v = canvas.y - y + side * p.eye_tilt * u
    opening = p.eye_opening * (1.0 - 0.9 * (2.0 * c.blink - 1.0).clamp(min=0.0))
    canvas.shade(canvas.bump(x, y - 0.02, width * 1.7, p.eye_opening * 2.4), 0.82)
    canvas.shade(canvas.bump(x, y + p.eye_opening * 1.7, width, 0.05) * p.bags, 0.72)
    white = canvas.lens(u, v, width, opening, opening * 0.75)
    # The upper lid throws a shadow.
    canvas.paint(white, color(*EYE_WHITE, x) * (0.94 + 3.0 * v).clamp_(0.70, 1.0))
    iris_x, iris_y = x + 0.03 * c.gaze, y - 0.004
    iris = canvas.ellipse(iris_x, iris_y, p.iris_size, p.iris_size).mul_(white)
    canvas.paint(iris, iris_color(p))
    pupil = canvas.ellipse(iris_x, iris_y, p.iris_size * 0.45, p.iris_size * 0.45).mul_(white)
    canvas.paint(pupil, color(*PUPIL, x))
    small = torch.full_like(x, 0.011)
    glint = canvas.ellipse(iris_x - 0.014, iris_y - 0.018, small, small).mul_(white)
    canvas.paint(glint, color(*GLINT, x))
    arch = (1.0 - (u / width).square_()).clamp_(min=0.0)
    above = v + arch * opening  # 0 on the edge of the upper lid
    ends = canvas.edge(width - 0.01 - u.abs())
    lid = canvas.edge(0.013 * p.lid + 0.004 - above.abs()).mul_(ends)
    canvas.paint(lid * 0.9, scene.skin * 0.22)
    fold = canvas.edge(0.006 - (above + 0.032).abs_()).mul_(ends)
    canvas.shade(fold * p.lid, 0.72)


def draw_brow(scene: Scene, side: float) -> None:
    """One eyebrow: a tilted, arched band that thins out."""
    p, pose, part = scene.p, scene.pose, scene.window(BROW_BOX.on(side))
    canvas = part.canvas
    gap = p.brow_gap * (1.0 + 0.25 * scene.c.brow_raise)
    x, y = pose.place(side * (p.eye_distance + 0.015), p.eye_height - gap, BROWS)
    width = p.brow_width * (pose.cos_yaw - 0.3 * side * pose.sin_yaw)
    u = (canvas.x - x) / width
    arch = (1.0 - u * u).clamp_(min=0.0)
    v = canvas.y - y - side * p.brow_tilt * width * u + p.brow_arch * arch
    band = canvas.edge(p.brow_thickness * (0.25 + 0.75 * arch) - v.abs_())
    band *= canvas.edge((1.0 - u.abs_()) * 0.1)
    canvas.paint(band * 0.92, part.strands * 0.80)
