"""MobileFaceNet with CurricularFace, from scratch: the main job.

    python cli.py recipe run mobilefacenet-curricular
    python cli.py recipe run mobilefacenet-curricular --data FOLDER [--pairs LIST --root FOLDER]

Sized for two CPU cores. Without --data, 140 generated people with 10 images each, 126 steps of 64
images: 1 min 43 s there, accuracy 64.7 untrained and 87.3 trained (docs/results.md). With --data the
source alone is another and the length stays six epochs, which suits thousands of images. Weight decay
is that of the MobileFaceNets paper, loss and margin are those of the CurricularFace paper; batch, rate
and length are this project's own.

For a data set like CASIA-WebFace, on a GPU, a published recipe for this backbone (batch 512, rate 0.1
divided by ten at epochs 36, 52 and 58 of 70) is

    --set optim.batch_size=512 --set schedule.epochs=70 --set schedule.kind=step
    --set schedule.milestones=[0.514,0.743,0.829] --set evaluation.every=5 --set train.checkpoint_every=1000

which has not been run with this code.
"""

from fusedface.kernels import CurricularFace
from fusedface.recipes.base import Data, Evaluation, Head, Optim, Recipe, Schedule, Synthetic


def recipe() -> Recipe:
    """The network at full width and 128 dimensions, at 112x112."""
    return Recipe(
        name="mobilefacenet-curricular",
        summary="MobileFaceNet with CurricularFace, from scratch: the main job",
        head=Head(margin=CurricularFace(m=0.5, s=64.0)),
        data=Data(synthetic=Synthetic(num_identities=140, images_per_identity=10, difficulty=0.5)),
        optim=Optim(lr=0.1, batch_size=64),
        schedule=Schedule(epochs=6.0, warmup_steps=20, kind="cosine"),
        evaluation=Evaluation(every=2.0, num_identities=50, images_per_identity=8),
    )
