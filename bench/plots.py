"""Time and memory against the number of classes or the batch, from result files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from fusedface.bench.results import describe
from fusedface.bench.rows import Row
from fusedface.recipes.report.style import new_figure, save, use_style

AXES = {"num_classes": "classes", "num_rows": "batch"}


def plot_growth(document: dict[str, Any], along: str, path: Path) -> None:
    """Draw time and memory of forward and backward; both axes are logarithmic.

    A cross above a curve's end marks where the head ran out of memory or failed.

    Args:
        document: a result of `bench scaling` or `bench kernels`.
        along: what grows: "num_classes" or "num_rows".
        path: of the figures, PNG and SVG.
    """
    rows = [Row.from_dict(row) for row in document["rows"]]
    names = [
        n for n in dict.fromkeys(r.head for r in rows) if any(r.ms for r in rows if r.head == n)
    ]
    with use_style():
        figure = new_figure(11.0, 4.5)
        times, memory = figure.subplots(1, 2)
        for name in names:
            own = [row for row in rows if row.head == name]
            label = name.replace("curricularface", "").replace("  ", " ").strip()
            _draw(times, own, along, [row.ms["both"][1] if row.ms else None for row in own], label)
            _draw(memory, own, along, [row.peak_extra_mib for row in own], label)
        shared = {"xscale": "log", "yscale": "log", "xlabel": AXES[along]}
        times.set(ylabel="forward + backward, ms", **shared)
        memory.set(ylabel="peak beyond the inputs, MiB", **shared)
        figure.legend(*times.get_legend_handles_labels(), loc="outside right center")
        figure.suptitle(f"{_fixed(rows, along)}; {describe(document['machine'])}")
        save(figure, path)


def _draw(
    axis: Axes, rows: Sequence[Row], along: str, values: Sequence[float | None], label: str
) -> None:
    points = [
        (getattr(row.case, along), value)
        for row, value in zip(rows, values, strict=True)
        if value and not row.note
    ]
    if not points:
        return
    (line,) = axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    failed = [getattr(row.case, along) for row in rows if row.note]
    if failed:
        axis.plot(failed, [points[-1][1]] * len(failed), "x", color=line.get_color(), markersize=7)


def _fixed(rows: Sequence[Row], along: str) -> str:
    case = rows[0].case
    fixed = f"B = {case.num_rows}" if along == "num_classes" else f"C = {case.num_classes:,}"
    return f"{fixed}, D = {case.dim}, {case.phase}"
