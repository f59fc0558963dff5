"""MobileFaceNet with CurricularFace."""

from fusedface.kernels import CurricularFace
from fusedface.recipes.base import Head, Optim, Recipe, Schedule


def recipe() -> Recipe:
    """The main job."""
    return Recipe(
        name="mobilefacenet-curricular",
        summary="MobileFaceNet with CurricularFace, from scratch",
        head=Head(margin=CurricularFace(m=0.5, s=64.0)),
        optim=Optim(lr=0.1, batch_size=64),
        schedule=Schedule(epochs=3.0, warmup_steps=20, kind="cosine"),
    )
