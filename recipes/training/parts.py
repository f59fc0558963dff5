"""Makes a trainer from a recipe; each part of it gets only the settings that it needs."""

from collections.abc import Callable
from dataclasses import replace

import torch

from fusedface.data import FaceDataset
from fusedface.kernels import predicted_initial_loss
from fusedface.models import Backbone, MarginHead, count_macs
from fusedface.models.loops.library import loops
from fusedface.recipes.configuration.data import SYNTHETIC
from fusedface.recipes.configuration.recipe import Recipe, TeacherOptions
from fusedface.recipes.evaluation.recognisers import open_recogniser
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.checkpoint_folder import CheckpointFolder
from fusedface.recipes.training.compile_choice import Choice, choose
from fusedface.recipes.training.compiling import Compiling
from fusedface.recipes.training.display import Display, Status
from fusedface.recipes.training.distillation import Distiller
from fusedface.recipes.training.faces import Faces
from fusedface.recipes.training.graph_choice import choose_recorder
from fusedface.recipes.training.learner import Learner
from fusedface.recipes.training.optim import build_optimizer
from fusedface.recipes.training.passes import Passes
from fusedface.recipes.training.plan import Plan, make_plan
from fusedface.recipes.training.precision import Precision
from fusedface.recipes.training.replicas import grad_scaler, synchronise
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
    passes = Passes(
        model,
        head,
        scaler,
        precision=precision,
        channels_last=train.channels_last,
        processes=processes,
        distiller=distiller,
        num_parts=optim.accumulate,
    )
    choice = _compile_choice(recipe, model, plan, precision, processes)
    return Learner(
        model,
        head,
        build_optimizer(model, head, optim, others),
        plan=plan,
        freeze_statistics=train.freeze_statistics,
        ema=train.ema,
        clip_norm=optim.clip_norm,
        precision=precision,
        passes=passes,
        compiling=Compiling(passes, model, head, choice, precision.dtype, note),
        scaler=scaler,
        processes=processes,
        distiller=distiller,
        recorder=choose_recorder(
            recipe, precision.device, processes.count, is_scaled=scaler.is_enabled()
        ),
        note=note,
    )


def _compile_choice(
    recipe: Recipe, model: Backbone, plan: Plan, precision: Precision, processes: Processes
) -> Choice:
    """Whether the passes of the run are compiled."""
    num_images = plan.num_steps * plan.batches.batch_size
    return choose(
        recipe.train.compile,
        precision=precision,
        num_processes=processes.count,
        changes_in_pass=recipe.optim.fuse_centres or recipe.teacher.places_centres,
        num_macs=lambda: num_images * count_macs(model, model.input_size),
        num_threads=torch.get_num_threads(),
        has_loops=lambda: loops() is not None,
    )


def _distiller(
    options: TeacherOptions, embedding_dim: int, device: torch.device, processes: Processes
) -> Distiller | None:
    """What the run learns from its teacher; None without one."""
    with processes.together():
        teacher = open_teacher(options, device, open_recogniser)
    if teacher is None:
        return None
    return Distiller(teacher, options, embedding_dim, processes).to(device)


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
