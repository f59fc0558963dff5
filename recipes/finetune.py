"""Fine-tuning: train a checkpoint further on the people of a folder.

    python cli.py recipe run mobilefacenet-finetune --init CHECKPOINT --data FACES

Network and preprocessing come from the checkpoint. Each class centre begins at the mean embedding of its
person. docs/results.md has measurements, docs/finetune.md the other settings.
"""

from dataclasses import replace

from fusedface.recipes.configuration.recipe import Init, Optim, Recipe, Schedule, Train
from fusedface.recipes.mobilefacenet import recipe as mobilefacenet
from fusedface.recipes.summaries import FINETUNE

NAME = "mobilefacenet-finetune"


def recipe() -> Recipe:
    """CurricularFace, at a hundredth of the learning rate of training from scratch."""
    base = mobilefacenet("curricular")
    return replace(
        base,
        name=NAME,
        summary=FINETUNE[NAME],
        init=Init(required=True),
        optim=Optim(lr=0.001, batch_size=64),
        schedule=Schedule(epochs=1.0, warmup_steps=5, kind="cosine"),
        train=Train(freeze_statistics=True),
        evaluation=replace(base.evaluation, every=0.0),
    )
