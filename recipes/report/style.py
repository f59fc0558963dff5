"""One style for all plots, which colour-blind readers can read too."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

# The palette of Okabe and Ito, darker colours first.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

GREY = "#888888"
LOWEST_RATE = 0.95  # an axis of rates begins at this value or below

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.hashsalt": "fusedface",  # so that the same figure gives the same file
    "axes.prop_cycle": cycler(color=COLORS),
}


@contextmanager
def use_style() -> Iterator[None]:
    """Use the style within the block; matplotlib's settings are restored after it."""
    with mpl.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure with a size in inches, without a window or a global backend."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def end_at_one(axes: Axes) -> None:
    """Set the limits of an axis of rates, slightly beyond 1 so that a line at 1 is visible."""
    low = min(float(np.min(line.get_ydata(), initial=1.0)) for line in axes.get_lines())
    low = min(low, LOWEST_RATE)
    room = 0.02 * (1 - low)
    axes.set_ylim(max(0.0, low - room), 1 + room)


def mark_chance(axes: Axes, label: str | None = None) -> None:
    """Draw a line at the accuracy of guessing."""
    axes.axhline(0.5, linestyle=":", color="grey", linewidth=1.0, label=label)


def save(figure: Figure, path: Path) -> None:
    """Write PNG and SVG next to each other; the suffix of `path` does not matter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _take_literally(figure)
    figure.savefig(path.with_suffix(".png"), metadata={"Software": None})
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def _take_literally(figure: Figure) -> None:
    """Have a $ in the name of a file or a person drawn as it is, and not taken for a formula."""
    logarithmic = [
        axis
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if axis.get_scale() == "log"
    ]
    ticks = [t for a in logarithmic for t in (*a.get_major_ticks(), *a.get_minor_ticks())]
    powers = {label for tick in ticks for label in (tick.label1, tick.label2)}  # of ten: formulas
    for text in figure.findobj(Text):
        if text not in powers:
            text.set_parse_math(False)  # pyright: ignore[reportAttributeAccessIssue]
