"""The figures of verification as a table: before and after training."""

from typing import Any

from rich.console import Console

from fusedface.recipes.host.terminal import Table, say
from fusedface.recipes.run_directory.summary import Summary


def print_verification(summary: Summary, console: Console) -> None:
    """Print the table, and below it the overlap of each set with the training people."""
    console.print(verification_table(summary))
    for name, text in summary.overlap.items():
        say(console, f"{name}: {text}")


def verification_table(summary: Summary) -> Table:
    """Figures before and after training in percent, one row for each figure of each set."""
    table = Table(
        f"{summary.recipe}: verification", ["set", "figure"], [before_training(summary.init), "trained"],
        num_keys=2,
    )  # fmt: skip
    sets = summary.verification or summary.untrained
    for name in sets:
        before, after = (
            figure_rows(summary.untrained.get(name)),
            figure_rows(summary.verification.get(name)),
        )
        for label in before | after:
            table.add_row(name, label, before.get(label, "-"), after.get(label, "-"))
    return table


def before_training(init: str) -> str:
    """The heading of the column with the figures before training."""
    return "checkpoint" if init else "untrained"


def figure_rows(figures: dict[str, Any] | None) -> dict[str, str]:
    """The figures of one set (`VerificationResult.as_dict`) as text in percent, by label."""
    if not figures:
        return {}
    mean, std = 100 * figures["accuracy"], 100 * figures["accuracy_std"]
    folds = f", {figures['num_folds']} folds" if "num_folds" in figures else ""
    rows = {f"accuracy{folds}": f"{mean:.2f} ± {std:.2f}"}
    for rate, value in figures.get("tar_at_far", {}).items():
        rows[f"TAR at FAR {rate}"] = "-" if value is None else f"{100 * value:.2f}"
    for key, label in (("auc", "area under ROC"), ("eer", "equal error rate"), ("rank1", "rank-1")):
        if figures.get(key) is not None:
            rows[label] = f"{100 * figures[key]:.2f}"
    if "scored" in figures:  # not in the summaries of earlier versions
        counts = f"{figures['num_genuine']:,} + {figures['num_impostor']:,}"
        rows["pairs of TAR and ROC"] = f"{figures['scored']}: {counts}"
    return rows
