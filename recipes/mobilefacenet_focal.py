"""MobileFaceNet with the focal loss: hard samples count more, instead of hard negatives.

Run: python cli.py recipe run mobilefacenet-focal
"""

from dataclasses import replace

from fusedface.kernels import NormFace
from fusedface.recipes import mobilefacenet_curricular
from fusedface.recipes.base import Head, Recipe


def recipe() -> Recipe:
    """The main job with the focal loss, per sample, over the normalised softmax."""
    return replace(
        mobilefacenet_curricular.recipe(),
        name="mobilefacenet-focal",
        summary="Focal loss with gamma = 2 over the normalised softmax",
        head=Head(margin=NormFace(s=64.0), focal_gamma=2.0),
    )
