"""MobileFaceNet with CosFace.

Run: python cli.py recipe run mobilefacenet-cosface
"""

from dataclasses import replace

from fusedface.kernels import CosFace
from fusedface.recipes import mobilefacenet_curricular
from fusedface.recipes.base import Head, Recipe


def recipe() -> Recipe:
    """The main job with CosFace: the margin is on the cosine."""
    return replace(
        mobilefacenet_curricular.recipe(),
        name="mobilefacenet-cosface",
        summary="CosFace with m = 0.35",
        head=Head(margin=CosFace(m=0.35, s=64.0)),
    )
