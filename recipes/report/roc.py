"""The ROC: true accept rate against false accept rate."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fusedface.recipes.report.style import new_figure, save, use_style


def plot_roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Draw ROC curves, false accept rate on a log axis; written as PNG and SVG.

    Args:
        curves: false and true accept rates (K,) by name, as `verification.roc` gives them.
        path: of the PNG.
    """
    with use_style():
        figure = new_figure(5.6, 4.2)
        axes = figure.add_subplot()
        lowest = 1.0
        for name, (far, tar) in curves.items():
            shown = far > 0
            lowest = min(lowest, far[shown].min())
            axes.step(far[shown], tar[shown], where="post", label=name)
        axes.set_xscale("log")
        axes.set_xlim(lowest, 1.0)
        axes.set_ylim(top=1.005)
        axes.set_xlabel("false accept rate")
        axes.set_ylabel("true accept rate")
        axes.legend(loc="lower right")
        save(figure, path)
