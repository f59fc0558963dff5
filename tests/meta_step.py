"""A training step on tensors without data, with the head's kernels."""

import torch

from fusedface.data import FaceBatch
from fusedface.kernels import HeadOptions, margins
from fusedface.recipes.configuration.loss_stages import stages_of
from fusedface.recipes.configuration.recipe import BackboneOptions, Optim, Recipe, Schedule, Train
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.batches import Batches
from fusedface.recipes.training.learning_rate import LearningRate
from fusedface.recipes.training.loss_schedule import LossSchedule
from fusedface.recipes.training.parts import make_learner
from fusedface.recipes.training.plan import Plan, Timetable
from fusedface.recipes.training.precision import Precision

META = torch.device("meta")


def learner(num_rows=8, num_classes=20, dim=16, optim=None, **settings):
    """A small MobileFaceNet with CurricularFace; `optim` and `settings` are those of the recipe."""
    recipe = Recipe(
        name="meta",
        summary="no data",
        backbone=BackboneOptions(embedding_dim=dim, input_size=(32, 32), width=0.25),
        head=HeadOptions(margin=margins.CurricularFace(), backend="triton", precision="bfloat16"),
        optim=Optim(batch_size=num_rows, **optim or {}),
        schedule=Schedule(steps=8),
        train=Train(precision="float32", **settings),
    )
    plan = Plan(
        batches=Batches(10 * num_rows, num_rows, 0),
        lr=LearningRate(base=0.1, num_steps=8, schedule=recipe.schedule),
        losses=LossSchedule(stages_of((), recipe.head.margin), 8),
        timetable=Timetable(num_steps=8, log_every=4, evaluate_every=0, checkpoint_every=9),
        freeze=recipe.train.freeze,
    )
    precision = Precision(META, torch.float32)
    return make_learner(recipe, recipe.backbone.build(), num_classes, plan, precision, Processes())


def a_batch(num_rows=8):
    """On the host."""
    return FaceBatch(
        torch.zeros(num_rows, 32, 32, 3, dtype=torch.uint8),
        torch.arange(num_rows),
        (),
        torch.zeros(num_rows, dtype=torch.bool),
    )
