"""report.html of a comparison: what was asked, the tables, the figures, and every run."""

import os
from collections.abc import Sequence
from pathlib import Path

from fusedface.recipes.compare.results import RunResult
from fusedface.recipes.compare.statistics import LossResult, reference_label
from fusedface.recipes.compare.tables import cells, headings, set_rows, settings_line
from fusedface.recipes.report.convergence import plot_convergence
from fusedface.recipes.report.html import Figure, Link, Prose, Table, write_html

QUESTION = (
    "Which of these losses converge on a small backbone, how fast, and to what accuracy? For one seed "
    "all start from the same weights and see the same images in the same order; only the loss differs."
)
READING = (
    "Accuracies and rates are means over seeds ± the sample standard deviation. Best accuracy is chosen "
    "on the test pairs and flatters; final accuracy is that after the last step. Steps to 90, 95 and "
    "99 % are of the best accuracy any loss reached. Reference less this: {reference}'s final accuracy "
    "less the other's, in points, with p of Student's paired t-test over seeds and, in brackets, after "
    "Holm's correction; with few seeds only large differences can show."
)
CAPTIONS = {
    "convergence": "Means over seeds, bands of one standard deviation; a cross marks where a run was found "
    "to have gone wrong. The band of the target cosine is that of 5 to 95 % of the images.",
    "curriculum": "What re-weighting does: t, the share of hard negatives, the range of their modulation, "
    "and the loss of samples with and without a hard negative.",
    "gradients": "Gradient norms, and what the training images look like to the network.",
}


def write_page(results: Sequence[RunResult], losses: Sequence[LossResult], out: Path) -> Path:
    """Draw the figures and write report.html.

    Args:
        results: all runs.
        losses: their figures, in the order of the rows.
        out: the folder of the comparison.
    """
    by_label: dict[str, list[Path]] = {loss.label: [] for loss in losses}
    for result in results:
        if result.train:
            by_label[result.run.label].append(result.run.folder)
    groups = {label: folders for label, folders in by_label.items() if folders}
    figures = plot_convergence(groups, out / "figures")
    num_runs = max(sum(loss.verdicts.values()) for loss in losses)
    path = out / "report.html"
    sections = [
        Prose(QUESTION),
        Prose(settings_line(results[0].run.recipe)),
        Table(
            columns=headings(losses),
            rows=[cells(loss, num_runs) for loss in losses],
            caption="Losses",
            note=READING.format(reference=reference_label(results)),
        ),
        *[Figure(figure, CAPTIONS[figure.stem]) for figure in figures if figure.suffix == ".png"],
        Table(
            columns=["set", "loss", "seed", "final accuracy, %", "area under ROC, %"],
            rows=set_rows(results),
            caption="Each set after the last step",
        ),
        Table(
            columns=["loss", "seed", "verdict", "why", "steps", "run", "recipe"],
            rows=[_run_row(result, out) for result in results],
            caption="Runs",
        ),
    ]
    write_html(path, title="Convergence of margin losses", sections=sections)
    return path


def _run_row(result: RunResult, out: Path) -> list[str | Link]:
    summary = result.summary
    folder = Path(os.path.relpath(result.run.folder, out)).as_posix()
    return [
        result.run.label,
        str(result.run.seed),
        result.verdict,
        summary.message if summary else "",
        f"{summary.steps:,} of {summary.num_steps:,}" if summary else "",
        Link(folder, f"{folder}/"),
        Link("recipe.toml", f"{folder}/recipe.toml"),
    ]
