"""The training curve of a run, drawn from its metrics.jsonl."""

from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes

from fusedface.kernels import STATE_NAMES
from fusedface.recipes.report.style import mark_chance, new_figure, save, use_style
from fusedface.recipes.run_directory.metrics import FILE
from fusedface.recipes.run_directory.reader import Line, RunRecord, read_run
from fusedface.recipes.run_directory.summary import SUMMARY, Summary


def plot_curves(folder: str | Path) -> list[Path]:
    """Draw curves.png and curves.svg into a run directory.

    The panels over the steps are:

    - the loss, the losses predicted for random and for collapsed embeddings, and changes of the margin
    - the cosines
    - the share of hard negatives and the training accuracy
    - the verification accuracy of each set
    - the modulation of hard negatives
    - the state of the margin, if it has one

    Args:
        folder: the run directory, with metrics.jsonl and summary.json.

    Returns:
        The written files; none if no training step is logged yet.

    Raises:
        ValueError: the folder has no metrics or no summary.
    """
    folder = Path(folder)
    run = read_run(folder)
    for name, found in ((FILE, (folder / FILE).is_file()), (SUMMARY, run.summary)):
        if not found:
            raise ValueError(f"{folder} holds no {name}; give the directory of a run")
    return _draw(run, run.summary, folder) if run.train and run.summary else []


def _draw(run: RunRecord, summary: Summary, folder: Path) -> list[Path]:
    train = run.train
    with use_style():
        figure = new_figure(9.0, 9.0)
        axes = figure.subplots(3, 2, sharex=True)
        _draw_loss(axes[0, 0], train, summary)
        _draw_series(axes[0, 1], train, "cosine", {
            "target_cosine": "own class", "max_negative_cosine": "nearest other class",
            "teacher_cosine": "teacher",
        })  # fmt: skip
        _draw_series(axes[1, 0], train, "share", {
            "hard_share": "negatives that are hard", "accuracy": "training accuracy",
        })  # fmt: skip
        _draw_verification(axes[1, 1], run.evaluations)
        _draw_series(axes[2, 0], train, "modulation of hard negatives", {
            "modulation_max": "largest", "modulation_mean": "mean", "modulation_min": "least",
        })  # fmt: skip
        states = {name: name for name in STATE_NAMES if name in train[-1]}
        _draw_series(axes[2, 1], train, "state of the loss" if states else "", states)
        for axis in axes[2]:
            axis.set_xlabel("step")
        figure.suptitle(f"{summary.recipe}, seed {summary.seed}")
        save(figure, folder / "curves")
    return [folder / "curves.png", folder / "curves.svg"]


def _draw_loss(axis: Axes, train: list[Line], summary: Summary) -> None:
    _draw_series(axis, train, "loss", {
        "loss": "training loss", "distillation_loss": "distillation loss",
    })  # fmt: skip
    for loss, label, dashes in (
        (summary.initial_loss, "random embeddings", ":"),
        (summary.collapse_loss, "collapsed", "--"),
    ):
        axis.axhline(loss, linestyle=dashes, color="grey", linewidth=1.0, label=label)
    for step, stage in _stages(train):
        axis.axvline(step, linestyle="-.", color="grey", linewidth=1.0)
        axis.annotate(stage, (step, 1.0), xycoords=("data", "axes fraction"), fontsize=8,
                      rotation=90, va="top", ha="right")  # fmt: skip
    axis.legend()


def _stages(train: list[Line]) -> list[tuple[int, str]]:
    """Changes of the margin by `schedule.loss`: the last logged step before each, and the new margin."""
    return [
        (one["step"], str(other["stage"]))
        for one, other in pairwise(train)
        if "stage" in other and other["stage"] != one.get("stage")
    ]


def _draw_series(axis: Axes, lines: list[Line], ylabel: str, labels: dict[str, str]) -> None:
    """Draw one curve for each key that occurs in the lines."""
    for key, label in labels.items():
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            axis.plot(*zip(*points, strict=True), label=label)
    axis.set_ylabel(ylabel)
    if axis.lines:
        axis.legend()


def _draw_verification(axis: Axes, evaluations: list[Line]) -> None:
    """Draw the accuracy of each set, with its deviation over the folds."""
    names = sorted({name for line in evaluations for name in line["verification"]})
    for name in names:
        points = [
            (line["step"], figures["accuracy"], figures["accuracy_std"])
            for line in evaluations
            if (figures := line["verification"].get(name))
        ]
        steps, means, stds = zip(*points, strict=True)
        axis.errorbar(steps, means, yerr=stds, marker="o", capsize=3, label=name)
    mark_chance(axis, label="chance")
    axis.set_ylabel("verification accuracy")
    axis.legend()
