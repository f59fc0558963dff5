"""MobileFaceNet with ArcFace, at its usual margin and at a smaller one.

Run: python cli.py recipe run mobilefacenet-arcface
"""

from dataclasses import replace

from fusedface.kernels import ArcFace
from fusedface.recipes import mobilefacenet_curricular
from fusedface.recipes.base import Head, Recipe


def recipe() -> Recipe:
    """The main job with ArcFace: no negative is re-weighted."""
    return replace(
        mobilefacenet_curricular.recipe(),
        name="mobilefacenet-arcface",
        summary="ArcFace with m = 0.5 in place of CurricularFace",
        head=Head(margin=ArcFace(m=0.5, s=64.0)),
    )


def small_margin() -> Recipe:
    """The margin of the CurricularFace paper's second comparison on MobileFaceNet (its Fig. 5)."""
    return replace(
        recipe(),
        name="mobilefacenet-arcface-m045",
        summary="ArcFace with m = 0.45",
        head=Head(margin=ArcFace(m=0.45, s=64.0)),
    )
