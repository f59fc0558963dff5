"""Contrasts as rows of text, for the terminal, for a report and for a page of documentation."""

from collections.abc import Mapping, Sequence

from fusedface.recipes.compare.contrasts import Contrast
from fusedface.recipes.compare.texts import cure_of
from fusedface.recipes.report.html import Cell, Table

COLUMNS = ("seeds", "points", "95 % interval", "joint interval", "g", "p (Holm)")
NOTE = (
    "Final accuracy of each variant less that of the plain loss, paired by seed. With 95 % all joint "
    "intervals hold at once (Bonferroni). The effect is Hedges' g of the paired differences. The "
    "intervals are about other seeds, with these training images and these pairs."
)


def figures(contrast: Contrast) -> list[str]:
    """The fields of `COLUMNS`."""
    test = contrast.test
    spread = "" if test.difference.std is None else f" ± {100 * test.difference.std:.2f}"
    return [
        str(test.difference.count),
        f"{100 * test.difference.mean:+.2f}{spread}",
        _interval(test.interval),
        _interval(contrast.joint),
        "-" if test.effect is None else f"{test.effect:+.1f}",
        "-" if test.p is None or test.p_holm is None else f"{test.p:.3f} ({test.p_holm:.3f})",
    ]


def gains_table(gains: Sequence[Contrast], names: Mapping[str, str]) -> Table | None:
    """For a report: one row for each cure of each loss; None without cures."""
    rows: list[list[Cell]] = [
        [names[gain.second], cure_of(gain.first), *figures(gain)] for gain in gains
    ]
    columns = ["loss", "cure", *COLUMNS]
    return Table(columns, rows, "What each cure changes", NOTE) if rows else None


def _interval(ends: tuple[float, float] | None) -> str:
    return "-" if ends is None else f"{100 * ends[0]:+.2f} to {100 * ends[1]:+.2f}"
