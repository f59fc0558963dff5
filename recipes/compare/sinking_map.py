"""The map of sinking: predictions, runs, and the number of correct predictions.

A folder OUT holds runs/LABEL/seedN as in a comparison, map.json, map.png and map.svg. After a stop the same
command goes on; finished runs are not repeated. Nor are those of which only the outcome is there, in
map.json: so a copy of that file is enough to go on elsewhere.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console

from fusedface.recipes.compare.map_outcome import (
    Outcome,
    outcome,
    outcome_table,
    read_map,
    score_lines,
)
from fusedface.recipes.compare.map_settings import BORDER, SETTINGS, Setting
from fusedface.recipes.compare.pool import run_all
from fusedface.recipes.compare.predictions import Prediction, read_predictions
from fusedface.recipes.compare.results import PlannedRun, read_result
from fusedface.recipes.compare.screen import Screen
from fusedface.recipes.host.terminal import say
from fusedface.recipes.report.map_plot import plot_map
from fusedface.recipes.report.phase import read_path
from fusedface.recipes.run_directory.files import write_text

MAP = "map.json"


def plan_map(out: Path, settings: Sequence[Setting] = SETTINGS + BORDER) -> list[PlannedRun]:
    """All runs of the map and of its border, in order."""
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
    before, seconds = read_map(out / MAP)
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
