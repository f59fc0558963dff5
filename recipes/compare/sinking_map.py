"""The map of sinking: predictions, runs, and the number of correct predictions.

A folder OUT holds runs/LABEL/seedN as in a comparison, map.json, map.png and map.svg. After a stop the same
command goes on; finished runs are not repeated. Nor are those of which only the outcome is there, in
map.json: so a copy of that file is enough to go on elsewhere.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fusedface.recipes.compare.map_settings import SETTINGS, Setting
from fusedface.recipes.compare.pool import run_all
from fusedface.recipes.compare.predictions import Prediction, read_predictions
from fusedface.recipes.compare.results import PlannedRun, RunResult, read_result
from fusedface.recipes.compare.screen import Screen
from fusedface.recipes.host.terminal import Table, say
from fusedface.recipes.report.map_plot import plot_map
from fusedface.recipes.report.phase import read_path
from fusedface.recipes.run_directory.files import read_json, write_text

CLEAR = 0.1
"""A run with a final target cosine above this has learned; one below minus this has sunk. A run between the
two is undecided, and its predictions are not counted."""
MAP = "map.json"


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


def plan_map(out: Path, settings: Sequence[Setting] = SETTINGS) -> list[PlannedRun]:
    """All runs of the map, in order."""
    return [
        PlannedRun(s.label, s.seed, s.recipe(), out / "runs" / s.label.replace(" ", "_") / f"seed{s.seed}")
        for s in settings
    ]  # fmt: skip


def run_map(
    out: Path,
    predictions: Path,
    *,
    jobs: int,
    minutes: float | None,
    device: torch.device,
    console: Console,
) -> list[Outcome] | None:
    """Train the unfinished settings while time is left, and judge the predictions.

    Args:
        out: the folder.
        predictions: the file with the predictions.
        jobs: number of simultaneous runs.
        minutes: no run begins after this time; None runs all of them.
        device: the device of the runs.
        console: where progress is shown.

    Returns:
        The outcomes so far; None after a signal.
    """
    foretold = read_predictions(predictions)
    before, seconds = _read_map(out / MAP)
    runs = [run for run in plan_map(out) if run.label in foretold]
    todo = [run for run in runs if not read_result(run).done and run.label not in before]
    say(console, f"{len(runs)} settings, {len(runs) - len(todo)} of them done before")
    deadline = math.inf if minutes is None else time.monotonic() + 60.0 * minutes
    screen = Screen(runs, console)
    try:
        stopped = run_all(todo, jobs, device, screen.update, lambda: time.monotonic() < deadline)
    finally:
        screen.close()
    if stopped:
        say(console, f"stopped by {stopped}; the same command goes on")
        return None
    outcomes = _outcomes(runs, foretold, before, console)
    _report(outcomes, foretold, seconds, out, console)
    return outcomes


def _report(
    outcomes: list[Outcome],
    foretold: dict[str, Prediction],
    seconds: float,
    out: Path,
    console: Console,
) -> None:
    """Write the map and draw it; print the table and the score. `seconds` is time of earlier versions."""
    seconds += sum(o.seconds for o in outcomes)
    content = {"seconds": round(seconds), "outcomes": [asdict(o) for o in outcomes]}
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / MAP, json.dumps(content) + "\n")
    _draw(outcomes, foretold, out)
    console.print(outcome_table(outcomes, foretold))
    for line in score_lines(outcomes):
        say(console, line)


def _outcomes(
    runs: Sequence[PlannedRun],
    foretold: dict[str, Prediction],
    before: dict[str, Outcome],
    console: Console,
) -> list[Outcome]:
    """The outcomes of the finished runs, or those of an earlier map.json, in the order of the settings."""
    found, broken = [], 0
    for run in runs:
        result = read_result(run)
        if result.summary is not None and result.summary.finished:
            now = outcome(result, foretold[run.label])
            found.append(
                replace(now, component=_component(run.folder), seconds=result.summary.seconds)
            )
        elif run.label in before:
            found.append(before[run.label])
        else:
            broken += result.done
    if broken:
        say(console, f"{broken} runs broke off and are not counted")
    return found


def _read_map(path: Path) -> tuple[dict[str, Outcome], float]:
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


def _draw(outcomes: Sequence[Outcome], foretold: dict[str, Prediction], out: Path) -> None:
    if not outcomes:
        return
    curves = [[(row[0], row[1]) for row in o.path] for o in outcomes]
    learns = [curve for curve, o in zip(curves, outcomes, strict=True) if o.says_asked]
    sinks = [curve for curve, o in zip(curves, outcomes, strict=True) if not o.says_asked]
    plot_map(learns, sinks, foretold[outcomes[0].label].asked_at, out / "map.png")


def _component(folder: Path) -> list[float]:
    path = read_path(folder)
    return [round(path.measured[-1], 4), round(path.predicted[-1], 4)]


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
