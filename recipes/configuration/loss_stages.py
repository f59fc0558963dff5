"""`schedule.loss`: the margins of a run one after the other, as a short list.

    "0.1 s=16", "0.2 s=32"        scale warm-up: s = 16 for a tenth of the run, 32 for another
    "0.1 m=0.0", "0.2 m=0.25"     margin warm-up
    "0.2 normface"                softmax on cosines first, with the s of the head's margin
    "0.9 cosine>0.25 normface"    the same until the target cosine passes 0.25

An entry has the fraction of the run at which it ends at the latest, optionally a target cosine that ends it
sooner, optionally the name of another margin, and settings of the margin. The head's own margin follows the
last entry.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from fusedface.kernels import MARGINS, Margin
from fusedface.recipes.configuration.fields import build, hints_of, nearest, parse

CONDITION = "cosine>"


class Stage(NamedTuple):
    """A margin, and the point of the run at which it ends."""

    until: float
    """The fraction of the run at which the stage ends, in (0, 1]."""
    margin: Margin
    text: str
    """Its name in the output: the entry without its end."""
    above: float | None = None
    """The stage ends sooner if the mean target cosine of a line of metrics is above this."""


def stage_named(stages: Sequence[Stage], text: str | None) -> Stage:
    """The stage with this name in a line of metrics; the last one for a line without a name."""
    return next((stage for stage in stages if stage.text == text), stages[-1])


def stages_of(entries: Sequence[str], margin: Margin) -> list[Stage]:
    """The stages of a run; the last one has the margin of the head.

    Args:
        entries: `schedule.loss`.
        margin: of the head.

    Raises:
        ValueError: an entry cannot be read, or the fractions are not rising within (0, 1).
    """
    stages = [_stage(entry, margin) for entry in entries]
    fractions = [0.0, *(stage.until for stage in stages), 1.0]
    if any(a >= b for a, b in pairwise(fractions)):
        raise ValueError(
            "schedule.loss must have rising fractions of the run, each in (0, 1), "
            f"got {', '.join(f'{stage.until:g}' for stage in stages)}"
        )
    return [*stages, Stage(1.0, margin, margin.name)]


def _stage(entry: str, own: Margin) -> Stage:
    fraction, *words = entry.split() or ("",)
    until, above = _number(fraction), None
    if words and words[0].startswith(CONDITION):
        above = _number(words.pop(0).removeprefix(CONDITION))
        if not -1.0 < above < 1.0:
            raise ValueError(
                f"schedule.loss: {CONDITION} must be followed by a cosine in (-1, 1), as in "
                f"'0.9 {CONDITION}0.25 normface'; got {entry!r}"
            )
    if not 0.0 < until < 1.0 or not words:
        raise ValueError(
            "schedule.loss must have entries such as '0.1 s=16' or '0.2 normface': a fraction of the run "
            f"in (0, 1), then what differs in the margin until there; got {entry!r}"
        )
    kind, values = type(own), {name: getattr(own, name) for name in hints_of(type(own))}
    if "=" not in words[0]:
        name = words[0].lower()
        if name not in MARGINS:
            known = ", ".join(MARGINS)
            raise ValueError(
                f"schedule.loss: there is no margin {name!r}{nearest(name, MARGINS)}\nThey are: {known}"
            )
        kind, values = MARGINS[name], {"s": own.s}
    hints = hints_of(kind)
    for word in words if "=" in words[0] else words[1:]:
        key, _, text = word.partition("=")
        if key not in hints:
            raise ValueError(
                f"schedule.loss: {kind.name} has no setting {key!r}{nearest(key, hints)}; it has "
                f"{', '.join(hints)}"
            )
        values[key] = parse(hints[key], text, f"schedule.loss: {key}")
    return Stage(until, build(kind, values, "schedule.loss."), " ".join(words), above)


def _number(text: str) -> float:
    """The number in a text; NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
