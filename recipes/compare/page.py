"""report.html of a comparison: the question, the tables, the figures, and all runs."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fusedface.recipes.compare.best import best_table
from fusedface.recipes.compare.contrast_tables import gains_table
from fusedface.recipes.compare.contrasts import gains_of_cures
from fusedface.recipes.compare.foretold import foretold_table
from fusedface.recipes.compare.headline import headline
from fusedface.recipes.compare.results import RunResult
from fusedface.recipes.compare.statistics import (
    LossResult,
    accuracies_of,
    by_label,
    reference_label,
)
from fusedface.recipes.compare.tables import (
    cells,
    groups,
    headings,
    set_rows,
    settings_line,
)
from fusedface.recipes.compare.texts import cure_of, loss_of, with_cure
from fusedface.recipes.report.convergence import plot_convergence
from fusedface.recipes.report.html import (
    Cell,
    Figure,
    Headline,
    Link,
    Prose,
    Table,
    Tags,
    write_html,
)
from fusedface.recipes.report.names import short_names
from fusedface.recipes.run_directory.summary import VERDICT_COLOURS

QUESTION = (
    "Which of these losses converge on a small backbone, how fast, and to what accuracy? For one seed "
    "all start from the same weights and see the same images in the same order; only the loss differs."
)
READING = (
    "Accuracies and rates are means over seeds ± the sample standard deviation. Best accuracy is chosen "
    "on the test pairs and flatters; final accuracy is that after the last step. Steps to 90, 95 and "
    "99 % are of the best accuracy any loss reached. Reference less this: {reference}'s final accuracy "
    "less the other's, in points, with the 95 % interval of its mean, its effect size (Hedges' g of paired "
    "values), p of Student's paired t-test over seeds and, in brackets, after Holm's correction; with few "
    "seeds only large differences can show."
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
        losses: figures of the losses, in the order of the rows.
        out: the folder of the comparison.
    """
    names = _names(results)
    first, *others = _figures(results, losses, names, out / "figures")
    reference = reference_label(results)
    best = best_table(losses, names, reference)
    gains = gains_table(gains_of_cures(accuracies_of(by_label(results))), names)
    path = out / "report.html"
    sections = [
        Headline(headline(losses, names, reference)),
        *([best] if best else []),
        *([gains] if gains else []),
        *_loss_tables(losses, names, READING.format(reference=names[reference])),
        first,
        foretold_table(results, names),
        *others,
        Prose(QUESTION),
        Prose(settings_line(results[0].run.recipe)),
        Table(
            columns=["loss", "set", "seed", "final accuracy, %", "area under ROC, %"],
            rows=[[names[label], name, *rest] for name, label, *rest in set_rows(results)],
            caption="Each set after the last step",
        ),
        Table(
            columns=["loss", "seed", "verdict", "why", "steps", "files"],
            rows=[_run_row(result, names[result.run.label], out) for result in results],
            caption="Runs",
        ),
    ]
    write_html(path, title="Convergence of margin losses", sections=sections)
    return path


def _names(results: Sequence[RunResult]) -> dict[str, str]:
    """A short name of each label: that of its loss, and its cure."""
    recipes = {result.run.label: result.run.recipe for result in results}
    losses = short_names({label: r for label, r in recipes.items() if not cure_of(label)})
    return {
        label: with_cure(losses.get(loss_of(label), loss_of(label)), cure_of(label))
        for label in recipes
    }


def _figures(
    results: Sequence[RunResult], losses: Sequence[LossResult], names: Mapping[str, str], out: Path
) -> list[Figure]:
    """The figures of all losses; with cures one for each loss, because all lines in one cannot be read."""
    groups: dict[str, dict[str, list[Path]]] = {}
    has_cures = any(cure_of(loss.label) for loss in losses)
    for loss in losses:
        folders = [r.run.folder for r in results if r.run.label == loss.label and r.train]
        if folders:
            title, line = "", names[loss.label]
            if has_cures:
                title, line = loss_of(loss.label), cure_of(loss.label) or "without a cure"
            groups.setdefault(title, {})[line] = folders
    found = []
    for title, lines in groups.items():
        files = plot_convergence(lines, out / title)
        png = [file for file in files if file.suffix == ".png"]
        kept = png[:1] if has_cures else png
        about = f"{names.get(title, title)}. " if has_cures else ""
        found += [Figure(file, about + CAPTIONS[file.stem]) for file in kept]
    return found


def _loss_tables(losses: Sequence[LossResult], names: Mapping[str, str], note: str) -> list[Table]:
    """A table on accuracy, one on differences, and one on speed."""
    num_runs = max(sum(loss.verdicts.values()) for loss in losses)
    columns = headings(losses)
    rows: list[list[Cell]] = []
    for loss in losses:
        row: list[Cell] = [*cells(loss, num_runs)]
        row[0], row[2] = names[loss.label], _tags(loss.verdicts)
        rows.append(row)
    return [
        Table(
            [columns[i] for i in chosen],
            [[row[i] for i in chosen] for row in rows],
            caption,
            note if caption == "Differences" else "",
        )
        for caption, chosen in groups(columns).items()
    ]


def _tags(verdicts: Mapping[str, int]) -> Tags:
    return Tags(
        [(f"{count} {name}", VERDICT_COLOURS.get(name, "red")) for name, count in verdicts.items()]
    )


def _run_row(result: RunResult, name: str, out: Path) -> list[Cell]:
    summary = result.summary
    folder = Path(os.path.relpath(result.run.folder, out)).as_posix()
    return [
        name,
        str(result.run.seed),
        Tags([(result.verdict, VERDICT_COLOURS.get(result.verdict, "red"))]),
        summary.message if summary else "",
        f"{summary.steps:,} of {summary.num_steps:,}" if summary else "",
        Link("run", f"{folder}/"),
    ]
