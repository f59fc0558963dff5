"""Plots each loss of a collapsed network against the one cosine that all classes then share."""

from pathlib import Path

import numpy as np

from fusedface.kernels import ArcFace, CurricularFace, Margin, MVArc, NormFace
from fusedface.recipes.report.style import new_figure, save, use_style

NUM_CLASSES = 1000  # only shifts every curve by ln C
COSINES = np.linspace(-1.0, 1.0, 201)
LOSSES: tuple[tuple[str, Margin, dict[str, float]], ...] = (
    ("NormFace", NormFace(), {}),
    ("ArcFace", ArcFace(), {}),
    ("MV-Arc, t = 1.2", MVArc(t=1.2), {}),
    ("MV-Arc, t = 1.4", MVArc(t=1.4), {}),
    ("CurricularFace, t = 0", CurricularFace(), {"t": 0.0}),
    ("CurricularFace, t = 0.5", CurricularFace(), {"t": 0.5}),
)


def collapse_curve(margin: Margin, state: dict[str, float]) -> np.ndarray:
    """`Margin.collapse_loss` at each of COSINES."""
    return np.array([margin.collapse_loss(NUM_CLASSES, c, state) for c in COSINES])


def plot_collapse(path: Path) -> None:
    """Draw the curves as PNG and SVG; s = 64, m = 0.5.

    Args:
        path: path of the PNG file; the SVG file lies next to it.
    """
    with use_style():
        figure = new_figure(6.4, 4.2)
        axes = figure.add_subplot()
        for (label, margin, state), dashes in zip(
            LOSSES, ("-", "-", "--", "-.", "-", ":"), strict=True
        ):
            curve = collapse_curve(margin, state) - np.log(NUM_CLASSES - 1)
            axes.plot(COSINES, curve, label=label, linestyle=dashes)
        axes.axvline(0.0, color="grey", linewidth=1.0, linestyle=":")
        axes.set_ylim(-2.0, 80.0)
        axes.set_xlabel("cosine that every embedding has with every class centre")
        axes.set_ylabel("loss less ln C")
        figure.legend(loc="outside upper center", ncols=3)
        save(figure, path)
