"""The output of a run at its end; its last lines give the result and the next command."""

from pathlib import Path
from statistics import fmean

from rich.console import Console

from fusedface.recipes.host.program import command
from fusedface.recipes.host.terminal import plain, say
from fusedface.recipes.run_directory.metrics import Verification
from fusedface.recipes.run_directory.summary import VERDICT_COLOURS, Summary
from fusedface.recipes.run_directory.verification_table import print_verification

LEARNED, SUNKEN = ("converged", "unfinished"), ("sunk", "collapsed")
SCALE_WARMUP = "schedule.loss=0.1 s=16, 0.2 s=32"
STRAIGHT_THROUGH = "head.target_gradient=straight_through"
"""Settings that keep margins from sinking (docs/convergence.md)."""


def print_summary(summary: Summary, folder: Path, resume: str, console: Console) -> None:
    """Print the end of a run.

    Args:
        summary: the summary of the run.
        folder: its directory.
        resume: the command to go on.
        console: where to print.
    """
    if summary.verification:
        print_verification(summary, console)
    for change in summary.recipe_changes:
        say(console, f"changed after step {change['step']}: {'; '.join(change['changes'])}")
    minutes, seconds = divmod(round(summary.seconds), 60)
    speed = f"{summary.images_per_second:.1f} images/s"
    say(console, f"{minutes} min {seconds} s, {speed}; see {folder}")
    colour = VERDICT_COLOURS[summary.verdict]
    say(console, plain(summary.verdict, colour) + plain(f": {summary.message}"))
    for line in (_learned(summary), _next(summary, folder, resume)):
        if line:
            say(console, line)


def _learned(summary: Summary) -> str:
    """Accuracy at the end and before training; empty for a run that was not verified at its end."""
    if not summary.verification or not summary.finished:
        return ""
    text = f"{_accuracy(summary.verification)} of the pairs of faces are decided correctly"
    if summary.untrained:
        before = "by the checkpoint" if summary.init else "before training"
        text += f", {_accuracy(summary.untrained)} {before}"
    return f"it learned: {text}" if summary.verdict in LEARNED else text


def _accuracy(verification: Verification) -> str:
    return f"{fmean(figures['accuracy'] for figures in verification.values()):.2%}"


def _next(summary: Summary, folder: Path, resume: str) -> str:
    """The next command, by the verdict."""
    recipe = folder / "recipe.toml"
    if summary.verdict == "interrupted":
        return f"go on with: {resume}"
    if summary.verdict in SUNKEN:
        again = command("recipe", "run", recipe, "--set", SCALE_WARMUP)
        return (
            f"next, with a cure, a scale that rises or --set {STRAIGHT_THROUGH}, which keeps most margins "
            f"from sinking: {again}"
        )
    if summary.verdict == "unfinished":
        longer = command(
            "recipe", "run", recipe, "--set", f"schedule.steps={2 * summary.num_steps}"
        )
        return f"next, twice as many steps, which should do better still: {longer}"
    if summary.verdict == "converged":
        return f"next, the network as a file for other programs: {command('export', folder)}"
    return ""
