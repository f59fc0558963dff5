"""The map of sinking as a picture: the target cosine of every setting, coloured by its prediction."""

from collections.abc import Sequence
from pathlib import Path

from fusedface.recipes.report.style import COLORS, GREY, new_figure, save, use_style

Curve = Sequence[tuple[float, float]]
LOOKS = (("said to learn", COLORS[2], "-"), ("said to sink", COLORS[1], "--"))


def plot_map(
    said_to_learn: Sequence[Curve], said_to_sink: Sequence[Curve], asked: int, path: Path
) -> None:
    """Draw one curve per setting, as PNG and SVG.

    Args:
        said_to_learn: curves of (step, target cosine), of the runs with the prediction "learns".
        said_to_sink: curves of the other runs.
        asked: the step of the criterion.
        path: path of the PNG file; the SVG file lies next to it.
    """
    with use_style():
        figure = new_figure(7.4, 4.4)
        axis = figure.add_subplot()
        for (label, color, dashes), curves in zip(
            LOOKS, (said_to_learn, said_to_sink), strict=True
        ):
            for curve in curves:
                axis.plot(*zip(*curve, strict=True), color=color, linestyle=dashes, linewidth=1.1)
            name = f"{label} at step {asked}: {len(curves)} runs"
            axis.plot([], [], color=color, linestyle=dashes, label=name)
        axis.axvline(asked, color=GREY, linewidth=0.8, linestyle=":")
        axis.axhline(0.0, color=GREY, linewidth=0.8)
        axis.set_xlabel("step")
        axis.set_ylabel("target cosine")
        figure.legend(loc="outside upper center", ncols=2)
        save(figure, path)
