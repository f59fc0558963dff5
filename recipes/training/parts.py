"""Makes the parts of a training from a recipe; each part gets only the settings that it needs."""

import math
from dataclasses import replace

import numpy as np
import torch

from fusedface.data import FaceSource
from fusedface.kernels import check_sample_rate
from fusedface.models import Backbone, MarginHead
from fusedface.recipes.configuration.loss_stages import Stage, stages_of
from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.distillation import make_distiller
from fusedface.recipes.training.optim import build_optimizer
from fusedface.recipes.training.precision import Precision
from fusedface.recipes.training.replicas import synchronise
from fusedface.recipes.training.schedule import (
    Batches,
    LearningRate,
    LossSchedule,
    Plan,
    Timetable,
    num_steps,
)
from fusedface.recipes.training.step import Learner
from fusedface.recipes.training.teacher import open_teacher


def make_plan(recipe: Recipe, source: FaceSource, processes: Processes) -> Plan:
    """The plan of a run: batches, rates, margins and timetable by step.

    Args:
        recipe: the recipe of the run.
        source: its training images.
        processes: the processes that share each step.
    """
    optim, train = recipe.optim, recipe.train
    batches = Batches(len(source), optim.batch_size, train.seed, processes.rank, processes.count)
    if batches.own_size % optim.accumulate:
        of_each = "" if processes.count == 1 else " of each process"
        raise ValueError(
            f"the {batches.own_size} images{of_each} cannot be divided into optim.accumulate="
            f"{optim.accumulate} equal parts: set it to a divisor of their number"
        )
    check_sample_rate(recipe.head.sample_rate, batches.batch_size, source.num_classes)
    steps = num_steps(recipe.schedule, batches.steps_per_epoch)
    return Plan(
        batches=batches,
        lr=LearningRate(base=optim.lr, num_steps=steps, schedule=recipe.schedule),
        losses=LossSchedule(_stages(recipe, source), steps),
        timetable=Timetable(
            num_steps=steps,
            log_every=train.log_every,
            evaluate_every=math.ceil(recipe.evaluation.every * batches.steps_per_epoch),
            checkpoint_every=train.checkpoint_every,
            # A resumed run then no longer needs the checkpoint that it began with.
            saves_first=recipe.init.checkpoint is not None,
        ),
        freeze=train.freeze,
    )


def _stages(recipe: Recipe, source: FaceSource) -> list[Stage]:
    """The margins of the run, which may depend on the number of images of each person."""
    counts = tuple(np.bincount(source.labels, minlength=source.num_classes).tolist())
    stages = stages_of(recipe.schedule.loss, recipe.head.margin)
    return [stage._replace(margin=stage.margin.with_class_counts(counts)) for stage in stages]


def make_learner(
    recipe: Recipe,
    model: Backbone,
    num_classes: int,
    plan: Plan,
    precision: Precision,
    processes: Processes,
) -> Learner:
    """A backbone, freshly drawn class centres, and their optimiser.

    Args:
        recipe: the recipe of the run.
        model: its backbone, on the CPU.
        num_classes: number of people to train on.
        plan: the plan of the run.
        precision: device and dtype.
        processes: the processes that share each step.
    """
    optim, train = recipe.optim, recipe.train
    options = replace(recipe.head, margin=plan.losses.stages[-1].margin)
    head = MarginHead(model.embedding_dim, num_classes, options, process_group=processes.group)
    # Drawn on the CPU, then moved: a seed gives the same weights on every device.
    model, head = model.to(precision.device), head.to(precision.device)
    model = synchronise(model, processes)
    if train.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    teacher = processes.together(lambda: open_teacher(recipe.teacher, precision.device))
    distiller = make_distiller(recipe.teacher, teacher, model.embedding_dim, processes)
    if distiller is not None:
        distiller.to(precision.device)
        head.weight.requires_grad_(not distiller.places_centres)
    others = () if distiller is None else distiller.parameters()
    return Learner(
        model,
        head,
        build_optimizer(model, head, optim, others),
        plan=plan,
        freeze_statistics=train.freeze_statistics,
        ema=train.ema,
        clip_norm=optim.clip_norm,
        precision=precision,
        channels_last=train.channels_last,
        processes=processes,
        distiller=distiller,
        accumulate=optim.accumulate,
    )
