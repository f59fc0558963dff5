"""Plots the calibration: fitted probability and observed share of genuine pairs against the cosine."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusedface.recipes.report.style import COLORS, GREY, new_figure, save, use_style

DOTS: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 4}


@dataclass(frozen=True, eq=False)
class CalibrationCurve:
    """One fitted curve and the observed shares.

    Args:
        cosine, probability: (K,), points of the curve.
        middle, share: (M,), middles of bins of cosines, and the share of genuine pairs in each.
    """

    cosine: np.ndarray
    probability: np.ndarray
    middle: np.ndarray
    share: np.ndarray


def plot_calibration(curves: Mapping[str, CalibrationCurve], path: Path) -> None:
    """Draw the curves as lines and the shares as dots; written as PNG and SVG.

    Args:
        curves: curves by name.
        path: path of the PNG file; the SVG file lies next to it.
    """
    with use_style():
        figure = new_figure(5.6, 4.2)
        axes = figure.add_subplot()
        for number, (name, curve) in enumerate(curves.items()):
            colour = COLORS[number % len(COLORS)]
            axes.plot(curve.cosine, curve.probability, color=colour, label=name)
            axes.plot(curve.middle, curve.share, color=colour, **DOTS)
        axes.plot([], [], color=GREY, label="fitted")
        axes.plot([], [], color=GREY, label="share in a bin of cosines", **DOTS)
        axes.set_xlabel("cosine")
        axes.set_ylabel("probability of one person")
        axes.set_ylim(-0.02, 1.02)
        axes.legend(loc="upper left")
        save(figure, path)
