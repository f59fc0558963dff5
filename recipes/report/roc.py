"""The ROC, true against false accept rate, and the DET curve, false rejects against false accepts."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from scipy.stats import norm

from fusedface.recipes.report.style import GREY, end_at_one, new_figure, save, use_style

MOST_POINTS = 2000  # largest number of points of a curve
PERCENT = (0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 60)  # possible ends of the axes of a DET plot
LEAST_TOP = 2  # percent; least upper end of an axis

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""False and true accept rates (K,) by name, as `rates.roc` gives them."""


def plot_roc(curves: Curves, path: Path) -> None:
    """Draw ROC curves, false accept rate on a log axis; written as PNG and SVG.

    Args:
        curves: by name.
        path: path of the PNG file; the SVG file lies next to it.
    """
    with use_style():
        figure = new_figure(5.6, 4.2)
        axes = figure.add_subplot()
        lowest = 1.0
        for name, (far, tar) in curves.items():
            shown = far > 0
            lowest = min(lowest, far[shown].min())
            x, y = thinned(far[shown], tar[shown])
            axes.step(x, y, where="post", label=name)
        axes.set_xscale("log")
        axes.set_xlim(lowest, 1.0)
        end_at_one(axes)
        axes.set_xlabel("false accept rate")
        axes.set_ylabel("true accept rate")
        axes.legend(loc="lower right")
        save(figure, path)


def plot_det(curves: Curves, path: Path) -> None:
    """Draw DET curves: both error rates on normal deviate scales, where Gaussian scores give lines.

    Martin et al., "The DET curve in assessment of detection task performance", 1997. Rates of 0 and 1 are
    infinite on this scale and left out. Both rates are equal on the dotted line.

    Args:
        curves: by name.
        path: path of the PNG file; the SVG file lies next to it.
    """
    with use_style():
        figure = new_figure(5.0, 4.8)
        axes = figure.add_subplot()
        lowest, highest = 0.01, 0.0
        for name, (far, tar) in curves.items():
            shown = (far > 0) & (far < 1) & (tar > 0) & (tar < 1)
            x, y = thinned(far[shown], 1 - tar[shown])
            label = name if len(x) else f"{name}: no threshold errs both ways"
            axes.plot(norm.ppf(x), norm.ppf(y), label=label)
            if len(x):
                lowest = min(lowest, x.min(), y.min())
                highest = max(highest, x.max(), y.max())
        _scale(axes, max(lowest, PERCENT[0] / 100), highest)
        axes.set_xlabel("false accept rate, %")
        axes.set_ylabel("false reject rate, %")
        axes.legend(loc="upper right")
        save(figure, path)


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of a step curve; if there are more than 2,000, evenly spaced ones along the curve."""
    if len(x) <= 2:
        return x, y
    level, upright = np.diff(y) == 0, np.diff(x) == 0
    straight = (level[:-1] & level[1:]) | (upright[:-1] & upright[1:])
    kept = np.flatnonzero(np.concatenate([[True], ~straight, [True]]))
    if len(kept) > MOST_POINTS:
        kept = kept[np.linspace(0, len(kept) - 1, MOST_POINTS).round().astype(int)]
    return x[kept], y[kept]


def _scale(axes: Axes, lowest: float, highest: float) -> None:
    """Give both axes the normal deviate scale that shows these rates, and draw the line of equal rates."""
    top = next((p for p in PERCENT if p > 100 * highest and p >= LEAST_TOP), PERCENT[-1])
    ticks = [p for p in PERCENT if 99.9 * lowest <= p <= top]
    ends = float(norm.ppf(lowest)), float(norm.ppf(top / 100))
    axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle=":")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(norm.ppf(np.array(ticks) / 100), [f"{p:g}" for p in ticks])
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
