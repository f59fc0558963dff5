"""A face, part by part, from back to front."""

from torch import Tensor

from fusedface.data.synthetic.features import draw_brow, draw_eye, draw_mouth, draw_nose
from fusedface.data.synthetic.head import (
    draw_back_hair,
    draw_beard,
    draw_ear,
    draw_front_hair,
    draw_head,
    draw_neck,
    draw_skin_marks,
)
from fusedface.data.synthetic.scene import Scene


def draw_face(scene: Scene) -> Tensor:
    """Draw the people of a scene; returns the mask of their heads (n, 1, H, W)."""
    draw_back_hair(scene)
    draw_neck(scene)
    for side in (-1.0, 1.0):
        draw_ear(scene, side)
    head = draw_head(scene)
    draw_skin_marks(scene, head)
    draw_beard(scene, head)
    draw_nose(scene)
    draw_mouth(scene)
    for side in (-1.0, 1.0):
        draw_eye(scene, side)
        draw_brow(scene, side)
    draw_front_hair(scene, head)
    return head
