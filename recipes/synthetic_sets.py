"""MobileFaceNet on the public synthetic sets of Vec2Face, which hold no photos of real people.

    python cli.py recipe run mobilefacenet-hsface10k --val lfw.bin,cfp_fp.bin,agedb_30.bin
    python cli.py recipe run mobilefacenet-vface100k --data vface100k.lmdb --val lfw.bin

Both need a GPU, and neither has been run with this code. docs/synthetic_sets.md says where the files come
from. Length and learning rates of the smaller set are those of the published recipe in
recipes/mobilefacenet.py. Those of the larger set come from insightface's recipes for millions of images.
"""

from dataclasses import replace

from fusedface.recipes import mobilefacenet, summaries
from fusedface.recipes.configuration.recipe import Data, Evaluation, Optim, Recipe, Schedule, Train

WORKERS = 8


def hsface10k() -> Recipe:
    """HSFace10K of Vec2Face (https://arxiv.org/abs/2409.02979): 10,000 people, 0.5 M images."""
    return replace(
        _on_a_gpu("HSFaces/hsface10k.lmdb"),
        name="mobilefacenet-hsface10k",
        summary=summaries.SETS["mobilefacenet-hsface10k"],
        schedule=Schedule(epochs=70.0, kind="step", milestones=(0.514, 0.743, 0.829)),
    )


def vface100k() -> Recipe:
    """VFace100K of Vec2Face+ (https://arxiv.org/abs/2507.17192): 100,000 people, 4 M images."""
    return replace(
        _on_a_gpu("VFaces/vface100k.lmdb"),
        name="mobilefacenet-vface100k",
        summary=summaries.SETS["mobilefacenet-vface100k"],
        schedule=Schedule(epochs=20.0, kind="polynomial", power=2.0),
    )


def _on_a_gpu(source: str) -> Recipe:
    return replace(
        mobilefacenet.recipe("arcface"),
        data=Data(source=source, num_workers=WORKERS),
        optim=Optim(lr=0.1, batch_size=512),
        evaluation=Evaluation(every=5.0),
        train=Train(checkpoint_every=1000),
    )


SETS = {"mobilefacenet-hsface10k": hsface10k, "mobilefacenet-vface100k": vface100k}
"""The recipes of this file by name."""
