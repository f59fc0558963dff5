"""Hair, head, ears, neck, skin marks and beard: the parts behind and around the features of a face."""

import torch
from torch import Tensor

from fusedface.data.synthetic.canvas import Canvas
from fusedface.data.synthetic.frame import Box
from fusedface.data.synthetic.palette import color
from fusedface.data.synthetic.scene import CHIN, EARS, HAIR, HEAD, MOUTH, Scene

EAR_BOX = Box(0.0, -0.45, 1.28, 0.61)
CHEEK_BOX = Box(-0.06, 0.02, 0.78, 0.59)
MOLE_BOX = Box(-0.54, -0.38, 0.54, 0.98)
CHIN_BOX = Box(-0.30, 0.52, 0.30, 1.00)
BEARD_BOX = Box(-1.50, -0.08, 1.50, 1.60)
MOUSTACHE_BOX = Box(-0.42, 0.19, 0.42, 0.76)


def draw_back_hair(scene: Scene) -> None:
    """Hair behind the head: a cap, and long hair below it."""
    canvas, p = scene.canvas, scene.p
    x, y = scene.pose.place(0.0, -0.25, HAIR)
    bald = baldness(scene)
    volume = p.hair_volume * (1.0 - bald)
    width = p.face_width + 0.05 + volume
    cap = canvas.into_ellipse(x, y, width, 0.72 + volume)
    # Long hair falls in a box whose lower corners are round.
    beside = (width - 0.02 - (canvas.x - x).abs()).clamp_(max=0.25)
    below = (p.hair_length - canvas.y).clamp_(max=0.25)
    corner = (0.25 - beside).square_().add_((0.25 - below).square_()).sqrt_().neg_().add_(0.25)
    fall = torch.minimum(corner, canvas.y + 0.25)
    curls = p.curl.clamp(min=0.0) * scene.grain
    hair = canvas.edge(torch.maximum(cap, fall) + curls)
    # A bald head keeps its hair at the sides.
    crown = canvas.edge((-0.25 - canvas.y).mul_(0.15))
    canvas.paint(hair * (1.0 - crown * bald), scene.strands * 0.75)


def baldness(scene: Scene) -> Tensor:
    """0: a full head of hair, 1: bald on top; little in between."""
    return (4.0 * scene.p.bald).clamp(0.0, 1.0)


def draw_neck(scene: Scene) -> None:
    """Neck and clothes, at the lower edge."""
    part = scene.window(Box(-2.0, 0.45, 2.0, 2.0))
    canvas, p, c = part.canvas, scene.p, scene.c
    x, _ = scene.pose.place(0.0, 0.0, HEAD)
    off = canvas.x - x
    neck = torch.minimum(p.face_width * 0.66 - off.abs(), canvas.y - 0.5)
    canvas.paint(canvas.edge(neck), scene.skin * 0.68)
    cloth = color(0.35 + 0.3 * c.cloth, 0.38 - 0.2 * c.cloth, 0.42 + 0.25 * c.warm, p.skin)
    canvas.paint(canvas.edge(canvas.y - 1.02 - 0.25 * off.square_()), cloth)


def draw_ear(scene: Scene, side: float) -> None:
    """One ear, mostly behind the head."""
    p, part = scene.p, scene.window(EAR_BOX.on(side)).canvas
    x, y = scene.pose.place(side * (p.face_width + 0.01), p.eye_height + 0.16, EARS)
    part.paint(part.ellipse(x, y, p.ears * 0.6, p.ears * 1.5), scene.skin * 0.86)


def draw_head(scene: Scene) -> Tensor:
    """The skin with its shading; returns its mask (n, 1, H, W)."""
    canvas, p, c, pose = scene.canvas, scene.p, scene.c, scene.pose
    x, y = pose.place(0.0, 0.08, HEAD)
    off, v = canvas.x - x, canvas.y - y
    lower = (v > 0.0).float()
    v /= 1.08 + lower * (p.face_length - 1.13)
    v2 = v * v
    square = 0.35 + lower * (p.jaw - 0.35)
    half = (1.0 - v2 * (1.0 - square + v2 * square)).clamp_(min=0.0).sqrt_()
    half *= (1.0 + p.cheek * (1.0 - v2).clamp_(min=0.0) * v) * (p.face_width * pose.cos_yaw)
    across = (half - off.abs()).mul_((1.0 - 0.35 * v2).clamp_(min=0.1))
    head = canvas.edge(torch.minimum(across, 1.0 - v2))  # nothing above the crown or below the chin
    u = off.div_(half.clamp_(min=0.02))
    light = 0.30 * (c.light_strength + 1.0)
    u2 = u * u
    lit = 1.0 + (light * c.light_x) * u + (light * c.light_y) * v - 0.20 * u2.mul_(u2) - 0.10 * v2
    canvas.paint(head, scene.skin * lit.clamp_(0.25, 1.6).add_(0.015 * scene.grain))
    return head


def draw_skin_marks(scene: Scene, head: Tensor) -> None:
    """Blush, freckles, a mole, the chin."""
    p, pose, skin = scene.p, scene.pose, scene.skin
    for side in (-1.0, 1.0):
        part = scene.window(CHEEK_BOX.on(side))
        canvas = part.canvas
        x, y = pose.place(side * p.face_width * 0.58, 0.32, CHIN)
        cheek = canvas.bump(x, y, torch.full_like(x, 0.26), 0.22).mul_(canvas.of(head))
        canvas.paint(cheek * p.blush, skin * color(1.02, 0.72, 0.70, p.skin))
        spots = (part.grain - 0.7).mul_(2.0).clamp_(0.0, 1.0)
        canvas.shade(cheek * spots * p.freckles.clamp(min=0.0), 0.55)
    canvas = scene.canvas.window(MOLE_BOX)
    radius = torch.full_like(p.skin, 0.022)
    x, y = pose.place(p.mole_x, p.mole_y, CHIN)
    mole = canvas.ellipse(x, y, radius, radius) * p.mole.clamp(0.0, 1.0).sqrt()
    canvas.shade(mole * canvas.of(head), 0.35)
    canvas = scene.canvas.window(CHIN_BOX)
    x, y = pose.place(0.0, p.face_length - 0.16, CHIN)
    canvas.shade(canvas.bump(x, y - 0.10, torch.full_like(x, 0.22), 0.05) * p.chin, 0.72)


def draw_beard(scene: Scene, head: Tensor) -> None:
    """Beard along the jaw and moustache, from stubble to full."""
    p, part = scene.p, scene.window(BEARD_BOX)
    canvas = part.canvas
    x, y = scene.pose.place(0.0, p.mouth_height, MOUTH)
    # From the corners of the mouth it climbs along the cheeks to the ears.
    u = (canvas.x - x).div_(p.face_width).square_().clamp_(max=1.0)
    line = y - 0.03 - 0.48 * u.mul_(u)
    beard = canvas.edge((canvas.y - line).mul_(0.3)) * canvas.of(head)
    canvas.paint(beard * _stubble(part) * p.beard.clamp(0.0, 0.85), part.strands * 0.9)
    part = scene.window(MOUSTACHE_BOX)
    canvas: Canvas = part.canvas
    middle = y - 0.5 * (p.mouth_height - p.nose_length) + 0.03
    shape = canvas.ellipse(x, middle, p.mouth_width * 0.95, torch.full_like(x, 0.055))
    canvas.paint(shape * _stubble(part) * p.moustache.clamp(0.0, 0.85), part.strands * 0.9)


def _stubble(scene: Scene) -> Tensor:
    return (0.85 + 0.2 * scene.grain).clamp_(0.0, 1.0)


def draw_front_hair(scene: Scene, head: Tensor) -> None:
    """Hair over the forehead, down to a parted, bent hairline, and before the ears."""
    canvas, p = scene.canvas, scene.p
    x, _ = scene.pose.place(p.parting * 0.5, 0.0, HAIR)
    middle, _ = scene.pose.place(0.0, 0.0, HAIR)
    off = canvas.x - x
    line = p.hairline + 0.25 * p.parting * off + p.hairline_bend * (off * off)
    temple = (canvas.x - middle).abs_().div_(p.face_width * scene.pose.cos_yaw).sub_(0.72)
    temple = temple.clamp_(min=0.0).mul_(p.temple)
    line = line.sub_(1.2 * baldness(scene)).add_(temple)
    curls = p.curl.clamp(min=0.0) * scene.grain
    hair = canvas.edge((line - canvas.y).add_(curls).mul_(0.6)).mul_(head)
    canvas.paint(hair, scene.strands)
