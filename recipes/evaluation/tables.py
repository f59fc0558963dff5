"""The tables that `evaluate` prints."""

from collections.abc import Iterator, Mapping

from fusedface.recipes.evaluation.bootstrap import Interval
from fusedface.recipes.evaluation.measure import Measured
from fusedface.recipes.evaluation.templates import TEMPLATE_RATES, TemplateResult
from fusedface.recipes.evaluation.thresholds import (
    ENOUGH,
    SetThresholds,
    at_fixed_threshold,
)
from fusedface.recipes.host.terminal import Table
from fusedface.recipes.run_directory.verification_table import figure_rows

SHOWN_RANKS = (1, 5, 10)
THRESHOLD_HEADINGS = ("threshold", "95 % interval", "TAR, %", "interval, %", "false accepts")


def results_table(measured: Mapping[str, Measured]) -> Table:
    """One row per figure, one column per set; percent."""
    table = Table("", ["figure"], list(measured))
    columns = [figure_rows(m.figures.as_dict()) | _identified(m) for m in measured.values()]
    for label in {label: None for column in columns for label in column}:
        table.add_row(label, *(column.get(label, "-") for column in columns))
    return table


def _identified(measured: Measured) -> dict[str, str]:
    """The identification figures of a set."""
    found = measured.identification
    if found is None:
        return {}
    rows = {
        f"1:N, among the first {k}": f"{100 * found.cmc[k - 1]:.2f}"
        for k in SHOWN_RANKS
        if k <= len(found.cmc)
    }
    rows |= {
        f"1:N, DIR at FAR {far}": f"{100 * rate:.2f}" for far, rate in found.dir_at_far.items()
    }
    return rows | {"1:N, people and probes": f"{found.num_gallery:,} and {found.num_probes:,}"}


def thresholds_table(sets: Mapping[str, SetThresholds]) -> Table:
    """One row per set and false accept rate."""
    table = Table("Thresholds", ["set", "FAR"], THRESHOLD_HEADINGS, num_keys=2)
    for name, found in sets.items():
        for row in threshold_rows(found):
            table.add_row(name, *row)
    return table


def threshold_rows(found: SetThresholds) -> Iterator[list[str]]:
    """Rows of `thresholds_table`: each rate with its figures."""
    for point in found.points:
        yield [
            f"{point.far:g}",
            f"{point.threshold:.4f}",
            _interval(point.threshold_interval),
            f"{100 * point.tar:.2f}",
            _interval(point.tar_interval, percent=True),
            f"{point.num_allowed:,}",
        ]


def _interval(interval: Interval, percent: bool = False) -> str:
    if percent:
        return f"{100 * interval.low:.2f} to {100 * interval.high:.2f}"
    return f"{interval.low:.4f} to {interval.high:.4f}"


def threshold_notes(found: SetThresholds) -> list[str]:
    """Lines on the data behind the thresholds of a set, with a warning if the data are too few."""
    who = "unknown people" if found.num_people is None else f"{found.num_people:,} people"
    pairs = f"{found.num_genuine:,} genuine and {found.num_impostor:,} impostor pairs"
    which = "listed" if found.scored == "listed" else "all pairs of its images"
    slope, intercept = found.calibration.slope, found.calibration.intercept
    notes = [
        f"{pairs} ({which}) of {found.num_images:,} images of {who}; the intervals draw {found.drawn}",
        f"probability = 1 / (1 + exp({-intercept:.3f} - {slope:.3f} cosine)) where half of all comparisons "
        f"are of one person; Cllr {found.cllr:.3f} bits; fewest errors at {found.best:.4f}",
    ]
    unsure = [point.far for point in found.points if not point.is_supported]
    if unsure or not found.points:
        rates = ", ".join(f"{far:g}" for far in unsure) or "any rate"
        wanted = f"{ENOUGH / unsure[0]:,.0f}" if unsure else f"{ENOUGH / 0.1:,.0f}"
        notes.append(
            f"warning: {found.num_impostor:,} impostor pairs are too few for a threshold at FAR {rates}: "
            f"it should rest on {ENOUGH} false accepts, which takes {wanted} pairs"
            + (f" at {unsure[0]:g}" if len(unsure) > 1 else "")
        )
    return notes


def fixed_table(known: Mapping[str, SetThresholds], measured: Mapping[str, Measured]) -> Table:
    """Figures of each set's thresholds on the other sets, one row per threshold; percent."""
    table = Table(
        "Thresholds of other data",
        ["threshold of", "on"],
        ["threshold", "accuracy", "FAR", "TAR"],
        num_keys=2,
    )
    for source, found in known.items():
        chosen = {"fewest errors": found.best}
        chosen |= {f"FAR {p.far:g}": p.threshold for p in found.points if p.is_supported}
        for name, threshold in chosen.items():
            for on, other in measured.items():
                if other.thresholds is found:
                    continue
                did = at_fixed_threshold(other.scores, other.listed, threshold)
                rates = (f"{100 * rate:.2f}" for rate in (did.accuracy, did.far, did.tar))
                table.add_row(f"{source}, {name}", on, f"{threshold:.4f}", *rates)
    return table


def templates_table(results: Mapping[str, TemplateResult]) -> Table:
    """One row per set; percent."""
    rates = [f"TAR at FAR {far:g}" for far in TEMPLATE_RATES]
    table = Table("", ["set"], ["templates", "pairs", *rates])
    for name, result in results.items():
        rates = ["-" if r is None else f"{100 * r:.2f}" for r in result.tar_at_far.values()]
        pairs = f"{result.num_genuine:,} + {result.num_impostor:,}"
        table.add_row(name, f"{result.num_templates:,}", pairs, *rates)
    return table
