"""MobileFaceNet with MV-Arc-Softmax at two weights of its hard negatives.

Run: python cli.py recipe run mobilefacenet-mvarc-t1.2
"""

from dataclasses import replace

from fusedface.kernels import MVArc
from fusedface.recipes import mobilefacenet_curricular
from fusedface.recipes.base import Head, Recipe


def recipe(t: float) -> Recipe:
    """The main job with MV-Arc-Softmax; t in the convention of its paper, 1 is ArcFace."""
    return replace(
        mobilefacenet_curricular.recipe(),
        name=f"mobilefacenet-mvarc-t{t:g}",
        summary=f"MV-Arc-Softmax with t = {t:g}: hard negatives count {t:g} times from the start",
        head=Head(margin=MVArc(m=0.5, s=64.0, t=t)),
    )
