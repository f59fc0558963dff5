"""The result of a comparison in words: the best loss, the sunk losses, the significant differences."""

from collections.abc import Mapping, Sequence

from fusedface.recipes.compare.best import best_sentence
from fusedface.recipes.compare.statistics import LossResult
from fusedface.recipes.compare.texts import seeds_text

SIGNIFICANT = 0.05
FELL = ("sunk", "collapsed")
MOST_LISTED = 6  # names in a sentence


def headline(losses: Sequence[LossResult], names: Mapping[str, str], reference: str) -> list[str]:
    """Sentences, the most important first.

    Args:
        losses: best first.
        names: short names by label.
        reference: the label of the loss that the tests compare with the others.
    """
    lines = (
        _best(losses, names),
        best_sentence(losses, names, reference),
        *_fates(losses, names),
        _tests(losses, names, reference),
    )
    return [line for line in lines if line]


def _best(losses: Sequence[LossResult], names: Mapping[str, str]) -> str:
    most = max((loss.final.count for loss in losses if loss.final is not None), default=0)
    best = next((loss for loss in losses if loss.final and loss.final.count == most), None)
    if best is None or best.final is None:
        return "No run came to its end."
    spread = "" if best.final.std is None else f" ± {100 * best.final.std:.1f}"
    seeds = seeds_text(best.final.count)
    return f"{names[best.label]} ends highest: {100 * best.final.mean:.1f}{spread} % ({seeds})."


def _fates(losses: Sequence[LossResult], names: Mapping[str, str]) -> list[str]:
    """Which losses sank, and which did not learn for another reason."""
    lines = []
    for wanted, words in (
        (FELL, "All cosines fell together in {}"),
        (("chance",), "No better than chance, or than before training: {}"),
        (("non_finite", "failed"), "Broke off: {}"),
    ):
        told = []
        for loss in losses:
            count, runs = sum(loss.verdicts.get(v, 0) for v in wanted), sum(loss.verdicts.values())
            if count:
                told.append(names[loss.label] + ("" if count == runs else f" ({count} of {runs})"))
        if told:
            lines.append(words.format(_listed(told)) + ".")
    return lines


def _tests(losses: Sequence[LossResult], names: Mapping[str, str], reference: str) -> str:
    """The losses that differ significantly from the reference, and those that do not."""
    better, worse, same = [], [], []
    for loss in losses:
        test = loss.against
        if test is None or test.p_holm is None:
            continue
        group = better if test.difference.mean > 0 else worse
        (group if test.p_holm < SIGNIFICANT else same).append(names[loss.label])
    parts = [f"better than {_listed(better)}"] * bool(better)
    parts += [f"worse than {_listed(worse)}"] * bool(worse)
    parts += [f"not shown to differ from {_listed(same)}"] * bool(same)
    if not parts:
        return ""
    return f"{names[reference]} is {'; '.join(parts)} (paired tests, 5 % after Holm's correction)."


def _listed(words: Sequence[str]) -> str:
    """The words as a list, with semicolons if a word contains a comma; of many only the number."""
    if len(words) > MOST_LISTED:
        return f"{len(words)} variants"
    comma = "; " if any("," in word for word in words) else ", "
    return comma.join(words)
