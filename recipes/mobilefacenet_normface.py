"""MobileFaceNet with NormFace, the normalised softmax without a margin.

Run: python cli.py recipe run mobilefacenet-normface
"""

from dataclasses import replace

from fusedface.kernels import NormFace
from fusedface.recipes import mobilefacenet_curricular
from fusedface.recipes.base import Head, Recipe


def recipe() -> Recipe:
    """The main job without a margin: what the margins are measured against."""
    return replace(
        mobilefacenet_curricular.recipe(),
        name="mobilefacenet-normface",
        summary="NormFace: no margin, the baseline of the comparison",
        head=Head(margin=NormFace(s=64.0)),
    )
