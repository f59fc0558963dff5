"""run_recipe: from a recipe and a folder to a trained network and its summary."""

import time
from pathlib import Path

import torch
from rich.console import Console

from fusedface.models import MarginHead, create
from fusedface.recipes.base import Recipe
from fusedface.recipes.engine.checkpoint import CheckpointFolder
from fusedface.recipes.engine.device import pick_device
from fusedface.recipes.engine.environment import (
    describe_environment,
    device_name,
    peak_memory_mib,
)
from fusedface.recipes.engine.faces import Faces, open_faces
from fusedface.recipes.engine.fingerprint import check_same
from fusedface.recipes.engine.metrics import MetricsLog, read_metrics
from fusedface.recipes.engine.precision import Precision, pick_precision
from fusedface.recipes.engine.progress import Display, make_display
from fusedface.recipes.engine.rundir import RunDirectory
from fusedface.recipes.engine.seeding import seed_everything
from fusedface.recipes.engine.summary import VERDICT_COLOURS, Summary, print_verification
from fusedface.recipes.engine.train import Trainer
from fusedface.recipes.engine.watcher import Judgement, judge
from fusedface.recipes.terminal import plain, say


def run_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    device: str | torch.device | None = None,
    console: Console | None = None,
) -> Summary:
    """Train and verify what a recipe says, in a run directory (`engine.rundir` lists what is in it).

    Args:
        recipe: the experiment.
        out: the run directory, which must be empty or not exist unless `resume`.
        resume: go on with the run in `out` from its newest good checkpoint. A finished run is only
            reported.
        device: such as "cuda:1"; without it a GPU if there is one, else the CPU.
        console: where progress is shown.

    Returns:
        The summary, as it is in summary.json.

    Raises:
        ValueError: the recipe does not fit the data, or `out` cannot be used; nothing was trained.
    """
    console = console or Console()
    target = pick_device(device)
    directory = RunDirectory(Path(out), recipe, resume)
    earlier = directory.read_summary()
    if earlier is not None and (summary := Summary(**earlier)).finished:
        say(console, f"{out} has already finished: nothing to resume")
        print_verification(summary, console)
        return summary
    precision = pick_precision(recipe.train.precision, target)
    seed_everything(recipe.train.seed)
    display = make_display(console)
    try:
        summary = _train(recipe, directory, precision, display)
    finally:
        display.close()
    _report(summary, directory, console)
    return summary


def _train(
    recipe: Recipe, directory: RunDirectory, precision: Precision, display: Display
) -> Summary:
    """Build everything, go on from the newest checkpoint if there is one, train, summarise."""
    began = time.perf_counter()
    faces = open_faces(recipe, precision.device, display.note)
    trainer = _build(recipe, faces, directory, precision, display, began)
    directory.create()  # not before: a mistake in the recipe or in a path must leave nothing behind
    content, problems = trainer.checkpoints.newest()
    for problem in problems:
        display.note(f"skipped a checkpoint: {problem}")
    if content is not None:
        check_same(content.get("data"), faces.train, directory.folder)
        trainer.load(content)
        display.note(f"going on after step {trainer.progress.step} of {trainer.num_steps}")
    trainer.checkpoints.remove_after(trainer.progress.step)
    log = MetricsLog(directory.folder, -1 if content is None else trainer.progress.step)
    if log.notice:
        display.note(log.notice)
    environment = describe_environment(precision.device, precision.name, recipe.train.seed)
    directory.add_environment(trainer.progress.step, environment)
    try:
        end = trainer.train(log)
    except OSError as error:  # a full disk, a worker that died
        raise OSError(
            f"{error}. The run is kept up to step {trainer.saved_step}; with that mended, go on with: "
            f"{directory.resume_command()}"
        ) from error
    finally:
        log.close()
    judgement = judge(
        read_metrics(log.path),
        ended=end.how,
        end_message=end.message,
        end_step=end.step,
        margin=recipe.head.margin,
        num_classes=faces.train.num_classes,
    )
    summary = _summarise(recipe, trainer, faces, judgement)
    directory.write_summary(summary.as_dict())
    return summary


def _build(
    recipe: Recipe,
    faces: Faces,
    directory: RunDirectory,
    precision: Precision,
    display: Display,
    began: float,
) -> Trainer:
    """The network, its head and their trainer, with weights drawn from the recipe's seed."""
    model = create(**recipe.backbone.options())
    options = recipe.head
    head = MarginHead(
        model.embedding_dim,
        faces.train.num_classes,
        options.margin,
        backend=options.backend,
        precision=options.precision,
        focal_gamma=options.focal_gamma,
        target_gradient=options.target_gradient,
    )
    # Moved after they are drawn: a seed means the same weights on every device.
    model, head = model.to(precision.device), head.to(precision.device)
    if recipe.train.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return Trainer(
        recipe,
        model=model,
        head=head,
        dataset=faces.dataset(recipe, model.preprocessing),
        evaluate=lambda: faces.evaluate(model),
        checkpoints=CheckpointFolder(directory.checkpoints, recipe.train.keep_checkpoints),
        precision=precision,
        display=display,
        began=began,
    )


def _summarise(recipe: Recipe, trainer: Trainer, faces: Faces, judgement: Judgement) -> Summary:
    progress, status = trainer.progress, trainer.status
    return Summary(
        recipe=recipe.name,
        seed=recipe.train.seed,
        device=device_name(trainer.precision.device),
        verdict=judgement.verdict,
        verdict_step=judgement.step,
        message=judgement.message,
        steps=progress.step,
        num_steps=trainer.num_steps,
        seconds=round(trainer.seconds, 2),
        images_per_second=round(trainer.images_per_second, 2),
        peak_memory_mib=peak_memory_mib(trainer.precision.device),
        final_loss=progress.final_loss,
        initial_loss=status.initial_loss,
        collapse_loss=status.collapse_loss,
        num_identities=faces.train.num_classes,
        num_images=len(faces.train),
        unreadable_images=len(progress.unreadable),
        verification=progress.verification or {},
        untrained=progress.untrained or {},
        overlap=faces.overlap,
    )


def _report(summary: Summary, directory: RunDirectory, console: Console) -> None:
    """Print the table and the verdict, draw the curve."""
    if summary.verification:
        print_verification(summary, console)
    colour = VERDICT_COLOURS[summary.verdict]
    say(console, plain(summary.verdict, colour) + plain(f": {summary.message}"))
    if summary.verdict == "interrupted":
        say(console, f"go on with: {directory.resume_command()}")
    minutes, seconds = divmod(round(summary.seconds), 60)
    speed = f"{summary.images_per_second:.1f} images/s"
    say(console, f"{minutes} min {seconds} s, {speed}; see {directory.folder}")

    from fusedface.recipes.report.curves import plot_curves  # matplotlib takes a second to import

    plot_curves(directory.folder)
