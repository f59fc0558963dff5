"""Each loss with its best cure, in words and as rows of a table."""

from collections.abc import Mapping, Sequence

from fusedface.recipes.compare.statistics import LossResult
from fusedface.recipes.compare.tables import difference_text, interval_text
from fusedface.recipes.compare.texts import cure_of, loss_of, seeds_text
from fusedface.recipes.report.html import Cell, Table

NOTE = (
    "The best of a loss is chosen on the pairs that it is reported on, among as many as the third column "
    "says. That flatters it against {reference}, which is not chosen."
)


def best_of_each(losses: Sequence[LossResult]) -> dict[str, list[LossResult]]:
    """The variants of each loss with at least one cure, best first, of those with the most finished seeds.

    Means over different seeds are not compared: one seed may be an easy one.

    Args:
        losses: best final accuracy first.
    """
    found: dict[str, list[LossResult]] = {}
    most = max((loss.final.count for loss in losses if loss.final is not None), default=0)
    for loss in losses:
        if loss.final is not None and loss.final.count == most:
            found.setdefault(loss_of(loss.label), []).append(loss)
    return {label: ones for label, ones in found.items() if any(cure_of(one.label) for one in ones)}


def best_table(
    losses: Sequence[LossResult], names: Mapping[str, str], reference: str
) -> Table | None:
    """One row for each loss: its best variant, against the reference; None without cures."""
    rows: list[list[Cell]] = []
    for label, variants in best_of_each(losses).items():
        best, test = variants[0], variants[0].against
        assert best.final is not None  # of `best_of_each`
        cosine = "-" if best.cosine is None else f"{best.cosine.mean:.2f}"
        rows.append([
            names.get(label, label),
            cure_of(best.label) or "none",
            str(len(variants)),
            f"{100 * best.final.mean:.2f}" + _spread(best.final.std),
            cosine,
            difference_text(best),
            "-" if test is None else interval_text(test),
            "-" if test is None or test.effect is None else f"{test.effect:+.1f}",
        ])  # fmt: skip
    columns = ["loss", "best cure", "variants", "final, %", "target cosine"]
    columns += ["reference less this", "95 % interval", "effect, g"]
    caption, note = "Each loss with its best cure", NOTE.format(reference=names[reference])
    return Table(columns, rows, caption, note) if rows else None


def best_sentence(losses: Sequence[LossResult], names: Mapping[str, str], reference: str) -> str:
    """The best ArcFace against the reference; empty without cures or without seeds to pair."""
    cured = best_of_each(losses).values()
    arcface = [v[0] for v in cured if names[v[0].label].startswith("ArcFace")]
    if not arcface or arcface[0].against is None:
        return ""
    best, test = arcface[0], arcface[0].against
    with_cure = f"with {cure}" if (cure := cure_of(best.label)) else "without a cure"
    sure = f", 95 % interval {interval_text(test)}" if test.interval else ""
    return (
        f"ArcFace is best {with_cure}; {names[reference]} less this is {100 * test.difference.mean:+.2f} "
        f"points ({seeds_text(test.difference.count)}{sure})."
    )


def _spread(std: float | None) -> str:
    return "" if std is None else f" ± {100 * std:.2f}"
