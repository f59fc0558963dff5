"""What came of a setting of the map of sinking, and which predictions were right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusedface.recipes.compare.predictions import Prediction
from fusedface.recipes.compare.results import RunResult
from fusedface.recipes.host.terminal import Table
from fusedface.recipes.run_directory.files import read_json

CLEAR = 0.1
"""A run with a final target cosine above this has learned; one below minus this has sunk. A run between the
two is undecided, and its predictions are not counted."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a setting."""

    label: str
    asked: float | None
    """Target cosine at the step of the criterion."""
    last: float
    """Target cosine at the end."""
    step: int
    learned: bool | None
    """Whether it learned; None if undecided."""
    says_untrained: bool
    """Whether the prediction before training was that it learns."""
    says_asked: bool
    """Whether the prediction at the step of the criterion was that it learns."""
    path: list[list[float]]
    """For each line of metrics: step, target cosine, nearest negative, training accuracy, a, b, |w|."""
    component: list[float] | None = None
    """b at the end: measured, and predicted by the law from the criterion's step on."""
    seconds: float = 0.0
    """Time of the run; 0 in files of earlier versions, which have only the sum."""


def outcome(result: RunResult, foretold: Prediction) -> Outcome:
    """Compare a finished run with its predictions."""
    asked = next(
        (line["target_cosine"] for line in result.train if line["step"] >= foretold.asked_at), None
    )
    last = result.train[-1]
    cosine, above = last["target_cosine"], foretold.learns_above
    names = ("step", "target_cosine", "max_negative_cosine", "accuracy")
    names += ("embedding_common", "centre_common", "centre_length")
    return Outcome(
        label=foretold.label,
        asked=asked,
        last=cosine,
        step=last["step"],
        learned=None if abs(cosine) <= CLEAR else cosine > 0.0,
        says_untrained=foretold.learns_untrained,
        says_asked=above is None or (asked is not None and asked > above),
        path=[[round(line[name], 5) for name in names] for line in result.train],
    )


def read_map(path: Path) -> tuple[dict[str, Outcome], float]:
    """The outcomes of a map.json by label, and the seconds that it does not attribute to one of them."""
    if not path.is_file():
        return {}, 0.0
    content: Any = read_json(path)
    try:
        found = [Outcome(**values) for values in content["outcomes"]]
        seconds = content["seconds"] - sum(o.seconds for o in found)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the file of a map: {error}") from None
    return {o.label: o for o in found}, max(0.0, round(seconds))


def score_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Correct predictions, false alarms and misses of both predictions, over the decided settings."""
    decided = [o for o in outcomes if o.learned is not None]
    learned = sum(bool(o.learned) for o in decided)
    lines = [
        f"{len(outcomes)} settings: {learned} learned, {len(decided) - learned} sank, "
        f"{len(outcomes) - len(decided)} undecided"
    ]
    for name, field in (("before training", "says_untrained"), ("at the criterion", "says_asked")):
        said: list[tuple[bool, bool]] = [(getattr(o, field), bool(o.learned)) for o in decided]
        alarms = sum(not says and learned for says, learned in said)
        misses = sum(says and not learned for says, learned in said)
        right = len(said) - alarms - misses
        share = f" ({right / len(said):.0%})" if said else ""
        lines.append(
            f"{name}: {right} of {len(said)} right{share}, {alarms} false alarms, {misses} misses"
        )
    return lines


def outcome_table(outcomes: Sequence[Outcome], foretold: dict[str, Prediction]) -> Table:
    """One row per setting."""
    names = ["F0/2", "cosine when asked", "at the end", "b", "b by the law"]
    table = Table("", ["setting", "before training", "when asked", "outcome"], names)
    word = {True: "learns", False: "sinks", None: "undecided"}
    for o in outcomes:
        above = foretold[o.label].learns_above
        figures = [above, o.asked, o.last, *(o.component or [None, None])]
        texts = ["-" if value is None else f"{value:.3f}" for value in figures]
        table.add_row(o.label, word[o.says_untrained], word[o.says_asked], word[o.learned], *texts)
    return table
