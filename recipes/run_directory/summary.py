"""The result of a run: summary.json, and the final table."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from rich.console import Console

from fusedface.recipes.host.terminal import Table, say
from fusedface.recipes.run_directory.files import read_json
from fusedface.recipes.run_directory.metrics import is_verification

SUMMARY = "summary.json"
VERDICT_COLOURS = {
    "converged": "green",
    "unfinished": "yellow",
    "interrupted": "yellow",
    "chance": "red",
    "sunk": "red",
    "collapsed": "red",
    "non_finite": "red",
}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What came of a run."""

    recipe: str
    """Its name."""
    seed: int
    device: str
    """Such as "cpu (x86_64, 2 threads)"."""
    verdict: str
    """One of `verdict.Verdict`."""
    verdict_step: int | None
    """Where the run went wrong, if it did."""
    message: str
    """A sentence on the verdict."""
    steps: int
    """Steps trained."""
    num_steps: int
    """Steps to train."""
    seconds: float
    """From the start of the run to its end, with reading, evaluating and saving."""
    images_per_second: float
    """Images a second of the training steps, with reading."""
    peak_memory_mib: float | None
    """On a GPU the allocator's peak, on a CPU the process's."""
    final_loss: float | None
    """Mean over the last line of metrics."""
    initial_loss: float
    """Predicted for random embeddings."""
    collapse_loss: float
    """Predicted for embeddings that are all at right angles to the class centres."""
    num_identities: int
    """C."""
    num_images: int
    """In the training set."""
    unreadable_images: int
    """Images of these that could not be read in training and were left out."""
    verification: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Figures by set name, of the trained network."""
    untrained: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The same, before training: of drawn weights, or of those of `init`."""
    overlap: dict[str, str] = field(default_factory=dict)
    """By set name: what its people and images have in common with those trained on."""
    init: str = ""
    """The checkpoint that it began with; empty where weights were drawn."""
    recipe_changes: list[dict[str, Any]] = field(default_factory=list)
    """Where it was resumed with other settings: {"step": ..., "changes": [a line each]}."""

    @property
    def finished(self) -> bool:
        """Whether all steps were trained."""
        return self.steps == self.num_steps

    def as_dict(self) -> dict[str, Any]:
        """For summary.json."""
        return asdict(self)


def print_verification(summary: Summary, console: Console) -> None:
    """The table, and below it whether the network has met the people of each set."""
    console.print(verification_table(summary))
    for name, text in summary.overlap.items():
        say(console, f"{name}: {text}")


def read_summary(path: Path) -> Summary:
    """The summary that a file holds.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    values = read_json(path)
    try:
        summary = Summary(**values)
    except TypeError as error:  # no object, an entry too many or too few
        reason = str(error).removeprefix("Summary.__init__() ")
        raise ValueError(f"{path} is not a summary of a run: {reason[:200]}") from None
    for name, hint in get_type_hints(Summary).items():
        if not isinstance(values.get(name), _kinds(hint)) and name in values:
            raise ValueError(f"{path} is damaged: {name} is {str(values[name])[:80]!r}")
    if summary.verdict not in VERDICT_COLOURS:
        raise ValueError(f"{path} is damaged: no verdict is {summary.verdict[:80]!r}")
    for name in ("verification", "untrained"):
        if not is_verification(values.get(name, {})):
            raise ValueError(f"{path} is damaged: {name} holds no verification figures")
    return summary


def _kinds(hint: Any) -> tuple[type, ...]:
    """What a field of this annotation may be in a JSON file."""
    options = [get_origin(option) or option for option in get_args(hint) or (hint,)]
    if get_origin(hint) in (dict, list):
        options = [get_origin(hint)]
    return (*options, int) if float in options else tuple(options)


def verification_table(summary: Summary) -> Table:
    """Untrained against trained, a row for each figure of each set; numbers in percent."""
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
    """What the figures from before training are of: the head of their column."""
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
