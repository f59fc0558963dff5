"""Plots the rate at which each margin moves a cosine common to all classes, and paths of runs.

Left: the rate of the target cosine against the cosine, in units of beta a^2, from the closed forms. Marks
show F0 / 2 and the point of no return; the path of each run lies on it. Right: the common component of the
class centres, measured, and predicted by the law from its value at the criterion's step, without a fit. See
docs/losses.md.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from fusedface.kernels import ArcFace, CurricularFace, Margin, MVArc, NormFace
from fusedface.kernels.sinking import (
    CRITERION_STEPS,
    Moment,
    common_component,
    learns_above,
    pace,
    turning_cosine,
)
from fusedface.recipes.configuration.loss_stages import stage_named, stages_of
from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.configuration.settings import read_recipe
from fusedface.recipes.report.style import COLORS, GREY, new_figure, save, use_style
from fusedface.recipes.run_directory.directory import RECIPE
from fusedface.recipes.run_directory.reader import Line, read_run
from fusedface.recipes.run_directory.summary import Summary

COSINES = np.linspace(-0.95, 0.95, 191)
NEEDED = ("target_cosine", "embedding_common", "centre_common", "centre_length", "lr")
LOSSES: tuple[tuple[str, Margin, dict[str, float], str], ...] = (
    ("NormFace", NormFace(), {}, "-"),
    ("ArcFace, m = 0.5", ArcFace(m=0.5), {}, "--"),
    ("MV-Arc, t = 1.2", MVArc(m=0.5, t=1.2), {}, "-."),
    ("CurricularFace, t = 0", CurricularFace(m=0.5), {"t": 0.0}, ":"),
    ("CurricularFace, t = 0.5", CurricularFace(m=0.5), {"t": 0.5}, "-"),
)


class RunPath(NamedTuple):
    """The path of a run from the criterion's step on."""

    label: str
    moments: list[Moment]
    cosines: list[float]
    measured: list[float]
    """The measured b at each step."""

    @property
    def predicted(self) -> list[float]:
        """b by the law, from its first measured value."""
        return common_component(self.moments, self.measured[0])


def read_path(folder: Path) -> RunPath:
    """The path of a run.

    Args:
        folder: its directory.

    Raises:
        ValueError: it has not ended, was not trained with SGD, is too short, or is older than the figures.
    """
    run, recipe = read_run(folder), read_recipe(folder / RECIPE)
    if run.summary is None:
        raise ValueError(f"{folder} holds no summary: the run has not ended")
    if recipe.optim.kind != "sgd":
        raise ValueError(f"{folder} was trained with {recipe.optim.kind}; the law is one of SGD")
    if recipe.teacher.places_centres:
        raise ValueError(f"{folder} has class centres of a teacher; the law is one of SGD")
    begins = recipe.schedule.warmup_steps + CRITERION_STEPS
    lines = [line for line in run.train if line["step"] >= begins]
    if len(lines) < 2 or any(name not in line for line in lines for name in NEEDED):
        raise ValueError(
            f"{folder} has too few lines after step {begins} with {', '.join(NEEDED)}: a longer run of "
            "this version has them"
        )
    ends = [_moment(line, recipe, run.summary) for line in lines]
    # The rate is that of a line's last step; those of its steps lie between it and the one before.
    means = [b._replace(pace=0.5 * (a.pace + b.pace)) for a, b in pairwise(ends)]
    return RunPath(
        _label(folder, run.summary),
        [ends[0], *means],
        [line["target_cosine"] for line in lines],
        [line["centre_common"] for line in lines],
    )


def _label(folder: Path, summary: Summary) -> str:
    """The label of a run: in a comparison or a map, the name of the folder above the seed's folder."""
    if folder.name.startswith("seed"):
        return folder.parent.name.replace("_", " ")
    return f"{summary.recipe}, seed {summary.seed}"


def _moment(line: Line, recipe: Recipe, summary: Summary) -> Moment:
    stages = stages_of(recipe.schedule.loss, recipe.head.margin)
    margin = stage_named(stages, line.get("stage")).margin
    state = {name: line[name] for name in margin.initial_state() if name in line}
    gap = margin.slope_gap(
        line["target_cosine"], state, target_gradient=recipe.head.target_gradient
    )
    rate = line["lr"] * recipe.optim.centres_factor
    momentum = recipe.optim.momentum
    beta = pace(margin.s, summary.num_identities, line["centre_length"], rate, momentum)
    return Moment(line["step"], gap, line["embedding_common"], beta)


def plot_phase(folders: Sequence[Path], path: Path) -> None:
    """Draw both panels as PNG and SVG.

    Args:
        folders: run directories; without any, only the losses are drawn.
        path: path of the PNG file; the SVG file lies next to it.

    Raises:
        ValueError: see `read_path`.
    """
    runs = [read_path(folder) for folder in folders]
    with use_style():
        figure = new_figure(11.0 if runs else 6.4, 4.8)
        axes = figure.subplots(1, 2 if runs else 1, squeeze=False)[0]
        _draw_losses(axes[0])
        for i, run in enumerate(runs):
            _draw_path(axes[0], run, i)
            _draw_component(axes[1], run, i)
        figure.legend(handles=axes[0].lines[: len(LOSSES)], loc="outside upper center", ncols=3)
        if runs:
            axes[1].plot([], [], color=GREY, linestyle="--", label="predicted, nothing fitted")
            axes[1].set_xlabel("step")
            axes[1].set_ylabel("common component of the class centres, b")
            axes[1].legend(fontsize=8)
        save(figure, path)


def _draw_losses(axis: Axes) -> None:
    for i, (label, margin, state, dashes) in enumerate(LOSSES):
        rates = [-margin.slope_gap(c, state) * (1.0 - c * c) for c in COSINES]
        axis.plot(COSINES, rates, color=COLORS[i], linestyle=dashes, label=label)
    # After all curves: the legend takes the first lines of the axis.
    for color, (_, margin, _, _) in zip(COLORS, LOSSES, strict=False):
        _mark(axis, margin, color)
    axis.axhline(0.0, color=GREY, linewidth=0.8)
    axis.set_ylim(-0.7, 1.2)
    axis.set_xlabel("target cosine")
    axis.set_ylabel("its rate by the common force, over βa²")


def _mark(axis: Axes, margin: Margin, color: str) -> None:
    """Mark where a loss learns at the criterion's step, and where its force turns, if it can sink."""
    marks = ((learns_above(margin), "F0/2"), (turning_cosine(margin), "turns"))
    for value, text in marks:
        if value is None:
            continue
        axis.axvline(value, color=color, linewidth=0.8, linestyle=":")
        axis.annotate(
            text, (value, 0.02), xycoords=("data", "axes fraction"), rotation=90,
            fontsize=8, ha="right", color=color,
        )  # fmt: skip


def _draw_path(axis: Axes, run: RunPath, index: int) -> None:
    """Draw measured changes of the target cosine over beta a^2; they include what the network learns."""
    points = [
        (0.5 * (c0 + c1), (c1 - c0) / ((m1.step - m0.step) * m1.pace * max(m1.spread, 1e-3) ** 2))
        for (m0, c0), (m1, c1) in pairwise(zip(run.moments, run.cosines, strict=True))
    ]
    color = COLORS[(index + len(LOSSES)) % len(COLORS)]
    axis.plot(
        *zip(*points, strict=True), marker="o", markersize=3, linewidth=0.8, color=color,
        label=run.label,
    )  # fmt: skip


def _draw_component(axis: Axes, run: RunPath, index: int) -> None:
    steps = [moment.step for moment in run.moments]
    color = COLORS[(index + len(LOSSES)) % len(COLORS)]
    axis.plot(steps, run.measured, color=color, label=run.label)
    axis.plot(steps, run.predicted, color=color, linestyle="--", linewidth=1.2)
