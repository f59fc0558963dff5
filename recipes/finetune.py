"""Fine-tuning: from the weights of a checkpoint, on the people of a folder.

    python cli.py recipe run mobilefacenet-finetune --init CHECKPOINT --data FACES

Network and preprocessing are those of the checkpoint; a class centre begins at the mean embedding of its
person. Measured in docs/results.md; docs/finetune.md has what else may be set.
"""

from dataclasses import replace

from fusedface.recipes.configuration.recipe import Init, Optim, Recipe, Schedule, Train
from fusedface.recipes.mobilefacenet import recipe as mobilefacenet


def recipe() -> Recipe:
    """CurricularFace at a hundredth of the rate of training from scratch."""
    base = mobilefacenet("curricular")
    return replace(
        base,
        name="mobilefacenet-finetune",
        summary="From the weights of a checkpoint (--init), on your people",
        init=Init(required=True),
        optim=Optim(lr=0.001, batch_size=64),
        schedule=Schedule(epochs=1.0, warmup_steps=5, kind="cosine"),
        train=Train(freeze_statistics=True),
        evaluation=replace(base.evaluation, every=0.0),
    )
