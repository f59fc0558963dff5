"""Plots the convergence of losses: training figures over the steps, with a band over the seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fusedface.kernels import STATE_NAMES
from fusedface.recipes.report.runs import Band, band, curve, read_groups
from fusedface.recipes.report.style import COLORS, mark_chance, new_figure, save, use_style
from fusedface.recipes.run_directory.reader import RunRecord

DASHES = ("-", "--", "-.", ":")
Panel = tuple[str, Callable[[Axes, Mapping[str, list[RunRecord]]], None]]


def plot_convergence(groups: Mapping[str, Sequence[Path]], out: Path) -> list[Path]:
    """Draw convergence, curriculum and gradients (PNG and SVG each) into a folder.

    Lines are means over the seeds of a loss; bands are ± one sample standard deviation. A cross marks the
    step at which a run went wrong, by its verdict.

    Args:
        groups: run directories by loss.
        out: the folder.

    Returns:
        The files.

    Raises:
        ValueError: a directory has no metrics.
    """
    runs = read_groups(groups)
    written = []
    for name, panels in _figures(runs).items():
        with use_style():
            figure = _draw(runs, panels)
            save(figure, out / f"{name}.png")
        written += [out / f"{name}.png", out / f"{name}.svg"]
    return written


def _figures(runs: Mapping[str, list[RunRecord]]) -> dict[str, list[Panel]]:
    """The panels of each figure; a state has one if a run has it."""
    return {
        "convergence": [
            ("verification accuracy over steps", _accuracy_over_steps),
            ("verification accuracy over training time", _accuracy_over_time),
            ("training loss", _figure_of("loss")),
            ("target cosine, with its 5 and 95 % quantiles", _target_cosine),
        ],
        "curriculum": [
            *((name, _figure_of(name)) for name in STATE_NAMES if _any_has(runs, name)),
            ("share of negatives that are hard", _figure_of("hard_share")),
            ("modulation of hard negatives: least, mean, largest", _modulation),
            ("loss of samples with a hard negative, and (thin) without", _easy_and_hard),
        ],
        "gradients": [
            ("gradient norm of the backbone, before clipping", _figure_of("grad_norm", log=True)),
            ("gradient norm of the class centres", _figure_of("grad_norm_head", log=True)),
            ("cosine of the nearest other class, mean", _figure_of("max_negative_cosine")),
            ("training images whose own centre is nearest", _figure_of("accuracy")),
        ],
    }


def _draw(runs: Mapping[str, list[RunRecord]], panels: list[Panel]) -> Figure:
    """Draw two panels per row under one legend."""
    rows = math.ceil(len(panels) / 2)
    figure = new_figure(11.0, 4.0 * rows)
    axes = figure.subplots(rows, 2).flat
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, draw) in zip(axes, panels, strict=False):
        draw(axis, runs)
        axis.set_title(title)
        if not axis.get_xlabel():
            axis.set_xlabel("step")
        if not axis.lines:
            axis.text(0.5, 0.5, "none of these runs has it", ha="center", transform=axis.transAxes)
    handles = [
        figure.axes[0].plot([], [], label=label, **_look(i))[0] for i, label in enumerate(runs)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(runs)))
    return figure


def _any_has(groups: Mapping[str, list[RunRecord]], key: str) -> bool:
    return any(curve(run, key) for runs in groups.values() for run in runs)


def _look(index: int) -> dict[str, Any]:
    """Colour and dashes of a loss, so that colour is not the only difference."""
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": DASHES[index % len(DASHES)],
    }


def _figure_of(
    key: str, log: bool = False
) -> Callable[[Axes, Mapping[str, list[RunRecord]]], None]:
    def draw(axis: Axes, groups: Mapping[str, list[RunRecord]]) -> None:
        for i, runs in enumerate(groups.values()):
            _plot(axis, band([curve(run, key) for run in runs]), i)
            _mark(axis, runs, lambda run: curve(run, key), i)
        if log:
            axis.set_yscale("log")

    return draw


def _accuracy_over_steps(axis: Axes, groups: Mapping[str, list[RunRecord]]) -> None:
    for i, runs in enumerate(groups.values()):
        _plot(axis, band([run.accuracies for run in runs]), i)
        _mark(axis, runs, lambda run: run.accuracies, i)
    mark_chance(axis)


def _accuracy_over_time(axis: Axes, groups: Mapping[str, list[RunRecord]]) -> None:
    """Draw accuracy against the mean time at which the runs of a loss reach each evaluation."""
    for i, runs in enumerate(groups.values()):
        accuracy = band([run.accuracies for run in runs])
        times = band(
            [[(e["step"], e["seconds"]) for e in run.evaluations if "seconds" in e] for run in runs]
        )
        if accuracy is None or times is None or len(times.steps) != len(accuracy.steps):
            continue
        axis.plot(times.mean / 60.0, accuracy.mean, **_look(i))  # pyright: ignore[reportArgumentType]
    if axis.lines:
        mark_chance(axis)
    axis.set_xlabel("minutes of training steps")


def _target_cosine(axis: Axes, groups: Mapping[str, list[RunRecord]]) -> None:
    for i, runs in enumerate(groups.values()):
        keys = ("target_cosine", "target_cosine_p05", "target_cosine_p95")
        mean, low, high = _bands(runs, *keys)
        _plot(axis, mean, i, shade=low is None)
        _shade(axis, low, high, i, alpha=0.10)


def _modulation(axis: Axes, groups: Mapping[str, list[RunRecord]]) -> None:
    for i, runs in enumerate(groups.values()):
        keys = ("modulation_min", "modulation_mean", "modulation_max")
        least, mean, largest = _bands(runs, *keys)
        _plot(axis, mean, i, shade=False)
        _shade(axis, least, largest, i, alpha=0.15)


def _easy_and_hard(axis: Axes, groups: Mapping[str, list[RunRecord]]) -> None:
    for i, runs in enumerate(groups.values()):
        hard, easy = _bands(runs, "loss_hard", "loss_easy")
        _plot(axis, hard, i)
        if easy is not None:
            axis.plot(easy.steps, easy.mean, linewidth=0.7, **_look(i))  # pyright: ignore[reportArgumentType]


def _bands(runs: list[RunRecord], *keys: str) -> list[Band | None]:
    """Mean and spread of several figures over the seeds of a loss."""
    return [band([curve(run, key) for run in runs]) for key in keys]


def _shade(axis: Axes, low: Band | None, high: Band | None, index: int, alpha: float) -> None:
    """Fill the area between two means, if the runs have both."""
    if low is not None and high is not None:
        axis.fill_between(low.steps, low.mean, high.mean, alpha=alpha, color=_look(index)["color"])


def _plot(axis: Axes, drawn: Band | None, index: int, shade: bool = True) -> None:
    if drawn is None:
        return
    axis.plot(drawn.steps, drawn.mean, **_look(index))  # pyright: ignore[reportArgumentType]
    if shade and np.any(drawn.std > 0):
        low, high = drawn.mean - drawn.std, drawn.mean + drawn.std
        axis.fill_between(drawn.steps, low, high, alpha=0.18, color=_look(index)["color"])


def _mark(
    axis: Axes,
    runs: list[RunRecord],
    points: Callable[[RunRecord], list[tuple[int, float]]],
    index: int,
) -> None:
    """Draw a cross on the curve of each failed run, at the last point before it went wrong."""
    for run in runs:
        step = run.went_wrong_at
        before = [point for point in points(run) if step is not None and point[0] <= step]
        if before:
            axis.plot(*before[-1], marker="X", markersize=9, color=_look(index)["color"],
                      markeredgecolor="black", linestyle="none", gid="went-wrong")  # fmt: skip
