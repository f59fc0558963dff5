"""The outcome of a run: its verdict, its summary, and what is printed at its end."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.host.terminal import say
from fusedface.recipes.run_directory.closing import print_summary
from fusedface.recipes.run_directory.directory import RunDirectory
from fusedface.recipes.run_directory.environment import device_name, peak_memory_mib
from fusedface.recipes.run_directory.metrics import FILE as METRICS
from fusedface.recipes.run_directory.metrics import read_metrics
from fusedface.recipes.run_directory.summary import Summary
from fusedface.recipes.run_directory.verdict import Judgement, judge

if TYPE_CHECKING:
    from fusedface.recipes.training.faces import Faces
    from fusedface.recipes.training.trainer import End, Trainer


def judged(
    recipe: Recipe, directory: RunDirectory, trainer: "Trainer", faces: "Faces", end: "End"
) -> Summary:
    """Judge a run, and write its summary."""
    judgement = judge(
        read_metrics(directory.folder / METRICS),
        ended=end.how,
        end_message=end.message,
        end_step=end.step,
        margin=trainer.plan.losses.stages[-1].margin,
        num_classes=faces.train.num_classes,
        margin_begins=trainer.plan.losses.last_begins,
        from_weights=recipe.init.checkpoint is not None,
        target_gradient=recipe.head.target_gradient,
        warmup_steps=recipe.schedule.warmup_steps,
    )
    summary = _summarise(recipe, trainer, faces, judgement)
    directory.write_summary(summary.as_dict())
    return summary


def _summarise(recipe: Recipe, trainer: "Trainer", faces: "Faces", judgement: Judgement) -> Summary:
    progress, status = trainer.progress, trainer.status
    device = trainer.learner.precision.device
    return Summary(
        recipe=recipe.name,
        seed=recipe.train.seed,
        device=device_name(device),
        verdict=judgement.verdict,
        verdict_step=judgement.step,
        message=judgement.message,
        steps=progress.step,
        num_steps=status.num_steps,
        seconds=round(trainer.seconds, 2),
        cpu_seconds=round(trainer.cpu_seconds, 2),
        images_per_second=round(trainer.images_per_second, 2),
        peak_memory_mib=peak_memory_mib(device),
        final_loss=progress.final_loss,
        initial_loss=status.initial_loss,
        collapse_loss=status.collapse_loss,
        num_identities=faces.train.num_classes,
        num_images=len(faces.train),
        unreadable_images=len(progress.unreadable),
        verification=progress.verification or {},
        untrained=progress.untrained or {},
        overlap=faces.overlap,
        init=recipe.init.checkpoint or "",
        recipe_changes=progress.recipe_changes,
        class_sizes=_sizes(getattr(trainer.plan.losses.stages[-1].margin, "class_counts", ())),
    )


def _sizes(counts: Sequence[int]) -> dict[str, int]:
    """See `Summary.class_sizes`."""
    return {str(size): number for size, number in sorted(Counter(counts).items())}


def report(summary: Summary, directory: RunDirectory, console: Console) -> None:
    """Print the outcome, and draw the curve."""
    print_summary(summary, directory.folder, directory.resume_command(), console)

    from fusedface.recipes.report.curves import plot_curves  # matplotlib takes a second to import

    try:
        plot_curves(directory.folder)
    except OSError as error:  # all other results are written
        say(console, f"the curves could not be drawn: {error}")
