"""run_recipe: train and verify a recipe in a run directory."""

import time
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fusedface.data import fingerprint
from fusedface.models import StartingPoint
from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.configuration.settings import to_dict, to_toml
from fusedface.recipes.host.device import pick_device
from fusedface.recipes.host.memory import enough_memory, keep_freed_memory
from fusedface.recipes.host.processes import Processes, joined
from fusedface.recipes.host.terminal import LastingConsole, say
from fusedface.recipes.host.torchrun import own_device
from fusedface.recipes.outcome import judged, report
from fusedface.recipes.resume import Reuse, finished_before, newest_checkpoint, what_is_left
from fusedface.recipes.run_directory.directory import RunDirectory
from fusedface.recipes.run_directory.environment import describe_environment
from fusedface.recipes.run_directory.metrics import MetricsLog, NoLog
from fusedface.recipes.run_directory.summary import Summary
from fusedface.recipes.run_directory.verification_table import print_verification
from fusedface.recipes.training.agreement import (
    check_same_faces,
    check_same_precision,
    check_same_recipe,
)
from fusedface.recipes.training.checkpoint_folder import CheckpointFolder
from fusedface.recipes.training.display import Display, make_display
from fusedface.recipes.training.faces import Faces, open_faces
from fusedface.recipes.training.going_on import go_on
from fusedface.recipes.training.parts import make_trainer
from fusedface.recipes.training.precision import Precision, pick_precision
from fusedface.recipes.training.seeding import in_fixed_order, seed_everything
from fusedface.recipes.training.starting import load_weights, place_centres, read_start
from fusedface.recipes.training.trainer import Trainer


def run_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    allow_change: Collection[str] = (),
    device: str | torch.device | None = None,
    console: Console | None = None,
    processes: Processes | None = None,
) -> Summary:
    """Train and verify a recipe in a run directory; `run_directory/directory.py` lists its files.

    Args:
        recipe: the experiment.
        out: the run directory, which must be empty or not exist unless `resume`.
        resume: go on with the run in `out` from its newest good checkpoint. A finished run is only
            reported.
        allow_change: settings ("optim.lr") or groups of them ("optim") that may differ from those at the
            start of the run. The summary records each change with its step. "data.source" also allows
            changed images.
        device: such as "cuda:1"; None takes a GPU if there is one, else the CPU.
        console: where progress is shown.
        processes: the processes that share the run, each of which calls this; None takes those that
            torchrun has started (docs/scaling.md).

    Returns:
        The summary, as in summary.json.

    Raises:
        ValueError: the recipe does not fit the data, or `out` cannot be used, or its files are damaged.
            Nothing was trained.
        OSError: reading or writing failed; the message says what is saved and how to go on.
    """
    target = own_device(pick_device(device))
    if processes is None:
        with joined(target) as processes:
            return run_recipe(
                recipe, out, resume=resume, allow_change=allow_change, device=device, console=console,
                processes=processes,
            )  # fmt: skip
    if not processes.is_first:
        console = Console(quiet=True)
    check_same_recipe(recipe, processes)
    to_toml(recipe)  # raises before anything is made, if a run could not be resumed from its file
    directory = RunDirectory(Path(out), None if device is None else str(device))
    reuse = Reuse(directory, recipe, resume, allow_change)
    return _run_in(recipe, reuse, target, console or LastingConsole(), processes)


def _run_in(
    recipe: Recipe, reuse: Reuse, target: torch.device, console: Console, processes: Processes
) -> Summary:
    """Run in a directory, unless its run has finished before."""
    directory = reuse.directory
    earlier = processes.from_first(lambda: finished_before(reuse, console))
    if earlier is not None:
        say(console, f"{directory.folder} has already finished: nothing to resume")
        print_verification(earlier, console)
        return earlier
    precision = pick_precision(recipe.train.precision, target)
    check_same_precision(precision.name, processes)
    if target.type == "cpu":
        keep_freed_memory()
    display = make_display(console)
    if precision.is_emulated:
        display.note(
            "this processor has no bfloat16 arithmetic and emulates it, which takes many times as long: "
            "train.precision=float32 or auto is faster here"
        )
    try:
        with in_fixed_order():
            summary = _train(recipe, reuse, precision, display, processes)
    finally:
        display.close()
    if processes.is_first:
        report(summary, directory, console)
    return summary


def _train(
    recipe: Recipe, reuse: Reuse, precision: Precision, display: Display, processes: Processes
) -> Summary:
    """Build everything, then claim the directory and run in it."""
    began = time.perf_counter()
    directory = reuse.directory
    seed_everything(recipe.train.seed)
    model = recipe.backbone.build()
    preparation, device = model.preprocessing, precision.device
    with processes.together():
        faces = open_faces(recipe.data, recipe.evaluation, preparation, device, display.note)
    entries = _entries(recipe, faces)
    check_same_faces(entries["data"], processes)
    checkpoints = CheckpointFolder(directory.checkpoints, recipe.train.keep_checkpoints, entries)
    # A run that goes on has everything in its own checkpoints.
    begun = processes.from_first(checkpoints.last_step) is not None
    with processes.together():
        start = None if begun else read_start(recipe.init, recipe.name)
    with enough_memory():
        trainer = make_trainer(
            recipe, model, faces, checkpoints=checkpoints, precision=precision, display=display,
            began=began, processes=processes,
        )  # fmt: skip
    if start is not None:
        load_weights(start, trainer.learner, trainer.display.note)
    with ExitStack() as held:
        # Only now: a mistake in the recipe or in a path must leave no folder behind.
        changes = processes.from_first(lambda: _claim(reuse, held))
        try:
            with processes.alive(), enough_memory():
                return _run(recipe, reuse, changes, trainer, faces, start)
        except OSError as error:  # such as a full disk, too little memory, missing images
            left = what_is_left(directory, trainer.progress.step, checkpoints.last_step())
            raise OSError(f"{error}. {left}") from error


def _claim(reuse: Reuse, held: ExitStack) -> list[str]:
    """Claim the directory until `held` closes; returns the allowed differences of its recipe."""
    held.enter_context(reuse.directory.claim())
    changes = reuse.check()
    reuse.directory.remove_partial()
    return changes


def _entries(recipe: Recipe, faces: Faces) -> dict[str, Any]:
    """Entries of every checkpoint on the run: its recipe, images and class names."""
    return {
        "recipe": to_dict(recipe),
        "data": fingerprint(faces.train),
        "classes": list(faces.train.class_names),
    }


def _run(
    recipe: Recipe,
    reuse: Reuse,
    changes: list[str],
    trainer: Trainer,
    faces: Faces,
    start: StartingPoint | None,
) -> Summary:
    """Go on from the newest checkpoint if there is one, train, summarise."""
    directory = reuse.directory
    processes = trainer.processes
    # A damaged environment.json is refused before any file changes.
    processes.from_first(directory.read_starts)
    checkpoint, since = newest_checkpoint(reuse, trainer.checkpoints, processes, trainer.display)
    resumed = checkpoint is not None
    go_on(trainer, checkpoint, since if resumed else changes)
    if not resumed:
        _begin(recipe, trainer, faces, start)
    # Together: where the first process cannot write, the others end too.
    with processes.together():
        opened = _open_log(recipe, directory, changes, trainer, resumed)
    with opened as log:
        end = trainer.train(log)
    return processes.from_first(lambda: judged(recipe, directory, trainer, faces, end))


def _begin(recipe: Recipe, trainer: Trainer, faces: Faces, start: StartingPoint | None) -> None:
    """Begin from the checkpoint that the recipe names, if any."""
    learner, note = trainer.learner, trainer.display.note
    if start is None:  # or all checkpoints of the run itself are damaged
        start = read_start(recipe.init, recipe.name)
        if start is None:
            return
        load_weights(start, learner, note)
    place_centres(
        learner.head, learner.model, faces.train, start, recipe.init.centres, recipe.data,
        trainer.processes, note,
    )  # fmt: skip


def _open_log(
    recipe: Recipe, directory: RunDirectory, changes: list[str], trainer: Trainer, resumed: bool
) -> MetricsLog | NoLog:
    """Record how the run begins or goes on; the first process writes, the others get a `NoLog`."""
    if not trainer.processes.is_first:
        return NoLog()
    if changes or not directory.recipe.exists():
        directory.write_recipe(to_toml(recipe))
    step = trainer.progress.step
    for name in trainer.checkpoints.set_aside_after(step):
        trainer.display.note(f"kept the damaged checkpoint as {name}")
    log = MetricsLog(directory.folder, step if resumed else -1)
    if log.notice:
        trainer.display.note(log.notice)
    directory.remove_summary()
    precision = trainer.learner.precision
    begun = {"seed": recipe.train.seed, "precision": precision.name}
    begun |= {"processes": trainer.processes.count, **describe_environment(precision.device)}
    directory.add_start(step, begun)
    return log
