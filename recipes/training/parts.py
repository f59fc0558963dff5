"""Makes a trainer from a recipe; each part of it gets only the settings that it needs."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from fusedface.data import FaceDataset, FaceSource
from fusedface.kernels import check_sample_rate, predicted_initial_loss
from fusedface.models import Backbone, MarginHead
from fusedface.recipes.configuration.faces import SYNTHETIC
from fusedface.recipes.configuration.loss_stages import Stage, stages_of
from fusedface.recipes.configuration.recipe import Recipe, TeacherOptions
from fusedface.recipes.evaluation.recognisers import open_recogniser
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.checkpoint_folder import CheckpointFolder
from fusedface.recipes.training.display import Display, Status
from fusedface.recipes.training.distillation import Distiller, make_distiller
from fusedface.recipes.training.faces import Faces
from fusedface.recipes.training.graph_choice import choose_recorder
from fusedface.recipes.training.made_passes import make_passes
from fusedface.recipes.training.optim import build_optimizer
from fusedface.recipes.training.precision import Precision
from fusedface.recipes.training.replicas import grad_scaler, synchronise
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
from fusedface.recipes.training.trainer import Trainer
from fusedface.recipes.training.watch import SinkingWatch


def make_trainer(
    recipe: Recipe,
    model: Backbone,
    faces: Faces,
    *,
    checkpoints: CheckpointFolder,
    precision: Precision,
    display: Display,
    began: float,
    processes: Processes,
) -> Trainer:
    """The trainer of a run.

    Args:
        recipe: the recipe of the run.
        model: its backbone, on the CPU.
        faces: the faces that it is trained and verified on.
        checkpoints: see `Trainer`.
        precision: device and dtype.
        display: see `Trainer`.
        began: see `Trainer`.
        processes: the processes that share the run.
    """
    data, train, source = recipe.data, recipe.train, faces.train
    plan = make_plan(recipe, source, processes)
    learner = make_learner(
        recipe, model, source.num_classes, plan, precision, processes, display.note
    )
    return Trainer(
        learner,
        plan,
        dataset=FaceDataset(source, data.augmentation, model.preprocessing, train.seed),
        # Generated faces are cached in this process.
        num_workers=0 if data.source == SYNTHETIC else data.num_workers,
        evaluate=lambda network: faces.evaluate(network, processes),
        checkpoints=checkpoints,
        display=display,
        status=_status(recipe.name, plan, learner.head),
        watch=SinkingWatch(
            source.num_classes,
            recipe.head.target_gradient,
            recipe.schedule.warmup_steps,
            train.log_every,
        ),
        began=began,
        processes=processes,
    )


def make_plan(recipe: Recipe, source: FaceSource, processes: Processes) -> Plan:
    """The plan of a run: batches, rates, margins and timetable by step.

    Args:
        recipe: the recipe of the run.
        source: its training images.
        processes: the processes that share each step.
        note: called with a line for the user.
    """
    optim, train = recipe.optim, recipe.train
    batches = Batches(len(source), optim.batch_size, train.seed, processes.rank, processes.count)
    smallest = 1 if train.freeze_statistics else 2  # two, for batch normalisation
    _check_accumulate(optim.accumulate, batches.own_size, processes.count, smallest)
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


def _check_accumulate(accumulate: int, num_images: int, num_processes: int, smallest: int) -> None:
    """Raise ValueError unless the images of a process can be divided into parts of one size."""
    if num_images % accumulate or 1 < accumulate > num_images // smallest:
        of_each = "" if num_processes == 1 else " of each process"
        at_least = "" if smallest == 1 else f" of at least {smallest}"
        raise ValueError(
            f"the {num_images} images{of_each} cannot be divided into optim.accumulate="
            f"{accumulate} equal parts{at_least}: set it to another divisor of their number"
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
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> Learner:
    """A backbone, freshly drawn class centres, and their optimiser.

    Args:
        recipe: the recipe of the run.
        model: its backbone, on the CPU.
        num_classes: number of people to train on.
        plan: the plan of the run.
        precision: device and dtype.
        processes: the processes that share each step.
        note: called with a line for the user.
    """
    optim, train = recipe.optim, recipe.train
    options = replace(recipe.head, margin=plan.losses.stages[-1].margin)
    head = MarginHead(model.embedding_dim, num_classes, options, process_group=processes.group)
    # Drawn on the CPU, then moved: a seed gives the same weights on every device.
    model, head = model.to(precision.device), head.to(precision.device)
    if optim.centres_dtype == "bfloat16":
        head.to(torch.bfloat16)
    model = synchronise(model, processes)
    if train.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    distiller = _distiller(recipe.teacher, model.embedding_dim, precision.device, processes)
    if distiller is not None:
        head.weight.requires_grad_(not distiller.places_centres)
    others = () if distiller is None else distiller.parameters()
    scaler = grad_scaler(precision, processes)
    return Learner(
        model,
        head,
        build_optimizer(model, head, optim, others),
        plan=plan,
        freeze_statistics=train.freeze_statistics,
        ema=train.ema,
        clip_norm=optim.clip_norm,
        precision=precision,
        passes=make_passes(
            recipe, model, head, scaler, plan, precision, processes, distiller, note
        ),
        scaler=scaler,
        processes=processes,
        distiller=distiller,
        recorder=choose_recorder(
            recipe, precision.device, processes.count, is_scaled=scaler.is_enabled()
        ),
        note=note,
    )


def _distiller(
    options: TeacherOptions, embedding_dim: int, device: torch.device, processes: Processes
) -> Distiller | None:
    """What the run learns from its teacher; None for a recipe without a teacher."""
    teacher = processes.together(lambda: open_teacher(options, device, open_recogniser))
    distiller = make_distiller(options, teacher, embedding_dim, processes)
    return None if distiller is None else distiller.to(device)


def _status(name: str, plan: Plan, head: MarginHead) -> Status:
    """The figures that the display shows, before the first step."""
    stages, batches = plan.losses.stages, plan.batches
    return Status(
        name=name,
        num_steps=plan.num_steps,
        num_epochs=plan.num_steps / batches.steps_per_epoch,
        batch_size=batches.batch_size,
        initial_loss=predicted_initial_loss(stages[0].margin, head.num_classes, head.embedding_dim),
        collapse_loss=stages[-1].margin.collapse_loss(head.num_classes),
    )
