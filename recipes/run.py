"""run_recipe: from a recipe and a folder to a trained network and its summary."""

import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from fusedface.models import MarginHead, create
from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.host.device import pick_device
from fusedface.recipes.host.terminal import plain, say
from fusedface.recipes.run_directory import fingerprint
from fusedface.recipes.run_directory.directory import RECIPE, RunDirectory
from fusedface.recipes.run_directory.environment import (
    describe_environment,
    device_name,
    peak_memory_mib,
)
from fusedface.recipes.run_directory.metrics import MetricsLog, read_metrics
from fusedface.recipes.run_directory.summary import VERDICT_COLOURS, Summary, print_verification
from fusedface.recipes.run_directory.verdict import Judgement, judge
from fusedface.recipes.training.checkpoint import CheckpointFolder
from fusedface.recipes.training.display import Display, make_display
from fusedface.recipes.training.faces import Faces, open_faces
from fusedface.recipes.training.precision import Precision, pick_precision
from fusedface.recipes.training.resume import recipe_of
from fusedface.recipes.training.seeding import seed_everything
from fusedface.recipes.training.trainer import Trainer


def run_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    allow_change: Collection[str] = (),
    device: str | torch.device | None = None,
    console: Console | None = None,
) -> Summary:
    """Train and verify what a recipe says, in a run directory (its content: `run_directory/directory.py`).

    Args:
        recipe: the experiment.
        out: the run directory, which must be empty or not exist unless `resume`.
        resume: go on with the run in `out` from its newest good checkpoint. A finished run is only
            reported.
        allow_change: settings ("optim.lr") or groups of them ("optim") that may differ from those the
            run was begun with; what changed is in its summary, with the step. "data.source" accepts
            that the images themselves have changed, too.
        device: such as "cuda:1"; without it a GPU if there is one, else the CPU.
        console: where progress is shown.

    Returns:
        The summary, as it is in summary.json.

    Raises:
        ValueError: the recipe does not fit the data, or `out` cannot be used, or what it holds is
            damaged; nothing was trained.
        OSError: nothing more can be read or written; says how far the run is kept and how it goes on.
    """
    console = console or Console()
    target = pick_device(device)
    named = None if device is None else str(device)
    directory = RunDirectory(Path(out), recipe, resume, allow_change, named)
    earlier = _finished_before(directory, console)
    if earlier is not None:
        say(console, f"{out} has already finished: nothing to resume")
        print_verification(earlier, console)
        return earlier
    precision = pick_precision(recipe.train.precision, target)
    seed_everything(recipe.train.seed)
    display = make_display(console)
    try:
        summary = _train(recipe, directory, precision, display)
    finally:
        display.close()
    _report(summary, directory, console)
    return summary


def _finished_before(directory: RunDirectory, console: Console) -> Summary | None:
    """The summary of a run that has come to its end with this recipe, else None.

    A damaged summary is written again, from what the run itself holds.
    """
    try:
        summary = directory.read_summary()
    except ValueError as error:
        say(console, f"{error}; it is written again")
        return None
    if summary is None or not summary.finished:
        return None
    changes = directory.changes
    checkpoint, _ = CheckpointFolder(directory.checkpoints, 1).newest()
    if checkpoint is not None:
        changes = directory.check_recipe(recipe_of(checkpoint), checkpoint.path)
    if changes:
        raise ValueError(
            f"{directory.folder} has finished with other settings, which cannot be changed any more; "
            "choose another --out. They differ in:\n  " + "\n  ".join(changes)
        )
    return summary


def _train(
    recipe: Recipe, directory: RunDirectory, precision: Precision, display: Display
) -> Summary:
    """Build everything, then have the directory for this process and run in it."""
    began = time.perf_counter()
    faces = open_faces(recipe, precision.device, display.note)
    trainer = _build(recipe, faces, directory, precision, display, began)
    # Not before: a mistake in the recipe or in a path must leave nothing behind.
    with directory.claim():
        try:
            return _run(recipe, directory, trainer, faces)
        except OSError as error:  # a full disk, a worker that died, images that are gone
            raise OSError(f"{error}. {_what_is_left(directory, trainer)}") from error


def _run(recipe: Recipe, directory: RunDirectory, trainer: Trainer, faces: Faces) -> Summary:
    """Go on from the newest checkpoint if there is one, train, summarise."""
    display, precision = trainer.display, trainer.precision
    directory.read_starts()  # damaged ones are refused before anything is changed
    resumed = _load_newest(directory, trainer)
    directory.write_recipe()
    trainer.checkpoints.remove_after(trainer.progress.step)
    with MetricsLog(directory.folder, trainer.progress.step if resumed else -1) as log:
        if log.notice:
            display.note(log.notice)
        environment = describe_environment(precision.device, precision.name, recipe.train.seed)
        directory.add_environment(trainer.progress.step, environment)
        end = trainer.train(log)
    judgement = judge(
        read_metrics(log.path),
        ended=end.how,
        end_message=end.message,
        end_step=end.step,
        margin=trainer.head.margin,
        num_classes=faces.train.num_classes,
    )
    summary = _summarise(recipe, trainer, faces, judgement)
    directory.write_summary(summary.as_dict())
    return summary


def _load_newest(directory: RunDirectory, trainer: Trainer) -> bool:
    """Load the newest good checkpoint; whether there is one.

    Raises:
        ValueError: it was trained with another recipe or on other images, or an entry is damaged.
    """
    display, checkpoints = trainer.display, trainer.checkpoints
    checkpoints.remove_partial()
    checkpoint, problems = checkpoints.newest()
    for problem in problems:
        display.note(f"skipped a checkpoint: {problem}")
    changes = directory.changes
    if checkpoint is not None:
        changes = directory.check_recipe(recipe_of(checkpoint), checkpoint.path)
        changes += _data_changes(directory, trainer, checkpoint.content.get("data"))
        trainer.load(checkpoint)
        display.note(f"going on after step {trainer.progress.step} of {trainer.num_steps}")
    if changes:
        step = trainer.progress.step
        trainer.progress.recipe_changes.append({"step": step, "changes": changes})
        for line in changes:
            display.note(f"changed after step {step}: {line}")
        if checkpoint is not None:
            trainer.save(best=False)  # recorded before a step is made with other settings
    return checkpoint is not None


def _data_changes(directory: RunDirectory, trainer: Trainer, before: object) -> list[str]:
    """What is to be recorded of images that have changed, if they may."""
    changed = fingerprint.changes(before, trainer.data)
    if changed is None:
        return []
    if not directory.may_change("data.source"):
        raise ValueError(
            f"the training images have changed since the run in {directory.folder} was begun: {changed}. "
            "The run would not go on with those it has learned from; restore them, begin again in another "
            "--out, or accept and record the change with --allow-change data.source"
        )
    return [f"the training images: {changed}"]


def _what_is_left(directory: RunDirectory, trainer: Trainer) -> str:
    """How far a run that broke off is kept, and what to type to go on."""
    if not (directory.folder / RECIPE).is_file():
        if trainer.progress.step == 0:
            return "Nothing was trained; with that mended, run the same command again"
        return f"{directory.folder} was deleted under the run: nothing is left of it to go on with"
    step = trainer.checkpoints.last_step()
    kept = "No checkpoint is left" if step is None else f"The run is kept up to step {step}"
    return f"{kept}; with that mended, go on with: {directory.resume_command()}"


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
    counts = tuple(np.bincount(faces.train.labels, minlength=faces.train.num_classes).tolist())
    head = MarginHead(
        model.embedding_dim,
        faces.train.num_classes,
        replace(recipe.head, margin=recipe.head.margin.with_class_counts(counts)),
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
        recipe_changes=progress.recipe_changes,
    )


def _report(summary: Summary, directory: RunDirectory, console: Console) -> None:
    """Print the table and the verdict, draw the curve."""
    if summary.verification:
        print_verification(summary, console)
    for change in summary.recipe_changes:
        say(console, f"changed after step {change['step']}: {'; '.join(change['changes'])}")
    colour = VERDICT_COLOURS[summary.verdict]
    say(console, plain(summary.verdict, colour) + plain(f": {summary.message}"))
    if summary.verdict == "interrupted":
        say(console, f"go on with: {directory.resume_command()}")
    minutes, seconds = divmod(round(summary.seconds), 60)
    speed = f"{summary.images_per_second:.1f} images/s"
    say(console, f"{minutes} min {seconds} s, {speed}; see {directory.folder}")

    from fusedface.recipes.report.curves import plot_curves  # matplotlib takes a second to import

    try:
        plot_curves(directory.folder)
    except OSError as error:  # everything else is there
        say(console, f"the curves could not be drawn: {error}")
