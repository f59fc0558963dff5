"""The CMC: share of probes whose person is among the k most similar people of the gallery."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fusedface.recipes.report.style import end_at_one, new_figure, save, use_style


def plot_cmc(curves: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw CMC curves; written as PNG and SVG.

    Args:
        curves: rates at rank 1, 2, ..., by name.
        path: path of the PNG file; the SVG file lies next to it.
    """
    with use_style():
        figure = new_figure(5.6, 4.2)
        axes = figure.add_subplot()
        for name, rates in curves.items():
            axes.plot(range(1, len(rates) + 1), rates, marker="o", markersize=3, label=name)
        longest = max(len(rates) for rates in curves.values())
        axes.set_xticks([1, *range(5, longest + 1, 5)] if longest > 5 else range(1, longest + 1))
        axes.set_xlabel("rank k")
        axes.set_ylabel("identification rate")
        end_at_one(axes)
        axes.legend(loc="lower right")
        save(figure, path)
