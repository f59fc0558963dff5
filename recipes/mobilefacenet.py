"""MobileFaceNet from scratch with each loss: the recipes that all other recipes are variants of.

    python cli.py recipe run mobilefacenet-curricular
    python cli.py recipe run mobilefacenet-arcface --data FOLDER [--pairs LIST --root FOLDER]

The size suits two CPU cores. Without --data a run generates 140 people with 10 images each, and trains
126 steps of 64 images. That takes 1 min 40 s there; accuracy rises from 64.7 % to 89.2 % (docs/results.md).
--data changes only the source: the length stays six epochs, which suits thousands of images. Weight decay
is that of the MobileFaceNets paper, loss and margin are those of the CurricularFace paper; batch, rate and
length are this project's own.

A published recipe trains this backbone on a data set like CASIA-WebFace on a GPU, with batch 512 and rate
0.1, divided by ten at epochs 36, 52 and 58 of 70. Its settings are

    --set optim.batch_size=512 --set schedule.epochs=70 --set schedule.kind=step
    --set schedule.milestones=[0.514,0.743,0.829] --set evaluation.every=5 --set train.checkpoint_every=1000

They have not been run with this code.
"""

from typing import NamedTuple

from fusedface.kernels import (
    AdaFace,
    ArcFace,
    CosFace,
    CurricularFace,
    HeadOptions,
    MVArc,
    NormFace,
    SelfPaced,
)
from fusedface.recipes import summaries
from fusedface.recipes.configuration.recipe import (
    Data,
    Evaluation,
    Optim,
    Recipe,
    Schedule,
    Synthetic,
)


class Loss(NamedTuple):
    """The head of a recipe, and how it changes during the run."""

    head: HeadOptions
    stages: tuple[str, ...] = ()
    """The setting `schedule.loss`."""


LOSSES = {
    "curricular": Loss(HeadOptions(margin=CurricularFace(m=0.5, s=64.0))),
    "arcface": Loss(HeadOptions(margin=ArcFace(m=0.5, s=64.0))),
    # The margin of the CurricularFace paper's second comparison on MobileFaceNet (its Fig. 5).
    "arcface-m045": Loss(HeadOptions(margin=ArcFace(m=0.45, s=64.0))),
    # t as defined in the paper of MV-Arc: 1 is ArcFace.
    "mvarc-t1.2": Loss(HeadOptions(margin=MVArc(m=0.5, s=64.0, t=1.2))),
    "mvarc-t1.4": Loss(HeadOptions(margin=MVArc(m=0.5, s=64.0, t=1.4))),
    "normface": Loss(HeadOptions(margin=NormFace(s=64.0))),
    "cosface": Loss(HeadOptions(margin=CosFace(m=0.35, s=64.0))),
    "focal": Loss(HeadOptions(margin=NormFace(s=64.0), focal_gamma=2.0)),
    "adaface": Loss(HeadOptions(margin=AdaFace(m=0.4, s=64.0))),
    "arcface-scale-warmup": Loss(
        HeadOptions(margin=ArcFace(m=0.5, s=64.0)), ("0.1 s=16", "0.2 s=32")
    ),
    "arcface-softmax-first": Loss(HeadOptions(margin=ArcFace(m=0.5, s=64.0)), ("0.25 normface",)),
    # A curriculum over samples, the classical kind; that of CurricularFace is over negatives.
    "spl": Loss(HeadOptions(margin=ArcFace(m=0.5, s=64.0), weighting=SelfPaced())),
}
"""Heads by the part of a recipe's name after "mobilefacenet-". A comparison changes nothing else."""


def recipe(loss: str) -> Recipe:
    """The network at full width and 128 dimensions, at 112x112, with a loss of LOSSES."""
    head, stages = LOSSES[loss]
    return Recipe(
        name=f"mobilefacenet-{loss}",
        summary=summaries.LOSSES[loss],
        head=head,
        data=Data(synthetic=Synthetic(num_identities=140, images_per_identity=10, difficulty=0.5)),
        optim=Optim(lr=0.1, batch_size=64),
        schedule=Schedule(epochs=6.0, warmup_steps=20, kind="cosine", loss=stages),
        evaluation=Evaluation(every=2.0, num_identities=50, images_per_identity=8),
    )
