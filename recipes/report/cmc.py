"""The CMC: how often the right person is among the k most similar of the gallery."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from fusedface.recipes.report.style import new_figure, save, use_style


def plot_cmc(curves: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw CMC curves; written as PNG and SVG.

    Args:
        curves: rates at rank 1, 2, ... by name.
        path: of the PNG.
    """
    with use_style():
        figure = new_figure(5.6, 4.2)
        axes = figure.add_subplot()
        for name, rates in curves.items():
            axes.plot(range(1, len(rates) + 1), rates, marker="o", markersize=3, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("rank k")
        axes.set_ylabel("identification rate")
        axes.set_ylim(top=1.005)
        axes.legend(loc="lower right")
        save(figure, path)
