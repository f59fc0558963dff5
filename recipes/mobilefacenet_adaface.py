"""MobileFaceNet with AdaFace.

Run: python cli.py recipe run mobilefacenet-adaface
"""

from dataclasses import replace

from fusedface.kernels import AdaFace
from fusedface.recipes import mobilefacenet_curricular
from fusedface.recipes.base import Head, Recipe


def recipe() -> Recipe:
    """The main job with AdaFace: the margin follows the length of the embedding."""
    return replace(
        mobilefacenet_curricular.recipe(),
        name="mobilefacenet-adaface",
        summary="AdaFace with m = 0.4: the margin follows the quality of the image",
        head=Head(margin=AdaFace(m=0.4, s=64.0)),
    )
