"""compare: plan the runs, run the unfinished ones, judge, report.

A comparison's folder:

comparison.json            every figure of the tables, the protocol, and the runs
report.html                the same to read, with the figures, in one file
figures/                   PNG and SVG
runs/LABEL/seedN/          the runs; next to each its recipe (seedN.toml), what else
                           it rests on (seedN.json) and what it printed (seedN.txt)
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from fusedface.recipes.compare.in_turn import RunRecipe, run_in_turn
from fusedface.recipes.compare.outcome import begun_runs, how_to_read, write_comparison
from fusedface.recipes.compare.plan import plan
from fusedface.recipes.compare.pool import default_jobs, run_all, write_recipe
from fusedface.recipes.compare.results import PlannedRun, RunResult, read_result
from fusedface.recipes.compare.reuse import Inputs, conflicts, inputs_of, record
from fusedface.recipes.compare.screen import Screen
from fusedface.recipes.compare.statistics import LossResult, summarise
from fusedface.recipes.compare.study import find, keep, keep_as_runs_end, write_runs
from fusedface.recipes.compare.tables import rich_tables, settings_line
from fusedface.recipes.compare.texts import shortened
from fusedface.recipes.configuration.recipe import Recipe
from fusedface.recipes.host.processes import Processes, joined
from fusedface.recipes.host.terminal import say
from fusedface.recipes.host.torchrun import own_device
from fusedface.recipes.training.agreement import check_same_runs

DEFAULT = Path("runs/compare")


def compare(
    recipes: Sequence[Recipe],
    out: Path | None,
    *,
    num_seeds: int,
    margins: str | None = None,
    cures: bool = False,
    study: Path | None = None,
    minutes: float | None = None,
    jobs: int | None = None,
    device: torch.device,
    console: Console,
    run_recipe: RunRecipe | None = None,
    processes: Processes | None = None,
) -> list[LossResult] | None:
    """Run every recipe with every seed, except finished runs, and report on all runs.

    Args:
        recipes: the recipes, which differ only in the loss.
        out: the folder of the comparison. Finished runs in it are not repeated, others go on. None takes
            runs/compare, or the first of runs/compare-2, -3, ... that holds no other comparison.
        num_seeds: number of runs of each loss.
        margins: see `plan`.
        cures: see `plan`.
        study: a file with the figures of finished runs. Runs in it are not repeated; new ones are added.
        minutes: no run begins after this time; None runs all.
        jobs: number of simultaneous runs; None takes as many as the machine can run.
        device: the device of the runs.
        console: where progress is shown.
        run_recipe: trains a recipe that several processes share; a single process starts others for it.
        processes: the processes that share each run, one run after the other; each calls this. None
            takes those that torchrun has started.

    Returns:
        The figures of each loss, best first. None after a signal, or if no run has ended; the same call
        then goes on.

    Raises:
        ValueError: see `plan`; the faces cannot be read; `out` holds runs of other settings, data or
            code; the processes were given other runs; or every run failed.
    """
    if processes is None:
        device = own_device(device)
        with joined(device) as processes:
            return compare(
                recipes, out, num_seeds=num_seeds, margins=margins, cures=cures, study=study,
                minutes=minutes, jobs=jobs, device=device, console=console, run_recipe=run_recipe,
                processes=processes,
            )  # fmt: skip
    jobs = _checked_jobs(jobs, processes)
    planned = partial(plan, recipes, num_seeds, margins, cures=cures)
    check_same_runs([run.recipe for run in planned(out or DEFAULT)], processes)
    console = console if processes.is_first else Console(quiet=True)
    todo = processes.from_first(lambda: _begin(out, planned, study, jobs, device, console))
    runs = planned(todo.out)
    stopped = _train(runs, todo, minutes, study, device, console, run_recipe, processes)
    return processes.from_first(lambda: _end(runs, todo, study, stopped, device, console))


def _checked_jobs(jobs: int | None, processes: Processes) -> int | None:
    """How many runs are made at once; None for as many as the machine can run."""
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {jobs}")
    if processes.count == 1:
        return jobs
    if jobs not in (None, 1):
        raise ValueError(
            f"under torchrun all processes share each run, one at a time: leave out --jobs {jobs}"
        )
    return 1


class ToDo(NamedTuple):
    """What is left of a comparison, the same on all processes."""

    out: Path
    inputs: Inputs
    waiting: list[int]
    """Indices of the planned runs that are not finished."""
    jobs: int


def _begin(
    out: Path | None,
    planned: Callable[[Path], list[PlannedRun]],
    study: Path | None,
    jobs: int | None,
    device: torch.device,
    console: Console,
) -> ToDo:
    """Choose the folder, and what is to be made; record what the runs rest on."""
    inputs = inputs_of(planned(out or DEFAULT)[0].recipe, device)
    out = _folder(out, planned, inputs, console)
    runs = planned(out)
    if study is not None and (found := find(study, runs, inputs)):
        # First what they rest on: a folder without it belongs to no comparison, should a kill come between.
        record([run for run, _ in found], inputs)
        write_runs(found)
        say(console, f"{len(found)} finished runs are taken from {study}")
    waiting = [index for index, run in enumerate(runs) if not read_result(run).done]
    todo = [runs[index] for index in waiting]
    record(todo, inputs)
    for run in todo:
        write_recipe(run)
    jobs = min(jobs or default_jobs(device), max(1, len(todo)))
    say(console, f"{len(runs)} runs, {len(runs) - len(todo)} of them done before, {jobs} at a time")
    say(console, settings_line(runs[0].recipe))
    return ToDo(out, inputs, waiting, jobs)


def _train(
    runs: Sequence[PlannedRun],
    todo: ToDo,
    minutes: float | None,
    study: Path | None,
    device: torch.device,
    console: Console,
    run_recipe: RunRecipe | None,
    processes: Processes,
) -> str | None:
    """Train the runs that are to do, on the screen of all runs; says what stopped it, if a signal did."""
    waiting = [runs[index] for index in todo.waiting]
    deadline = math.inf if minutes is None else time.monotonic() + 60.0 * minutes
    may_begin: Callable[[], bool] = lambda: time.monotonic() < deadline  # noqa: E731
    screen = Screen(runs, console)
    keep_ended = None if study is None else keep_as_runs_end(study, todo.inputs)

    def on_poll(running: set[PlannedRun]) -> None:
        screen.update(running)
        if keep_ended is not None:
            keep_ended(running)

    try:
        if processes.count == 1:
            return run_all(waiting, todo.jobs, device, on_poll, may_begin)
        assert run_recipe is not None
        return run_in_turn(waiting, device, processes, run_recipe, on_poll, may_begin)
    finally:
        screen.close()


def _end(
    runs: Sequence[PlannedRun],
    todo: ToDo,
    study: Path | None,
    stopped: str | None,
    device: torch.device,
    console: Console,
) -> list[LossResult] | None:
    """Keep what is finished in the file of the study, and report; None if there is nothing to report."""
    results = [read_result(run) for run in runs]
    if study is not None:
        say(console, f"{study} holds {keep(study, results, todo.inputs)} finished runs")
    if stopped:
        say(console, f"stopped by {stopped}; the same command goes on with {todo.out}")
        return None
    begun = begun_runs(results, console)
    return report(begun, todo.out, device, console) if begun else None


def _folder(
    out: Path | None,
    planned: Callable[[Path], list[PlannedRun]],
    inputs: Inputs,
    console: Console,
) -> Path:
    """The folder in which this comparison begins or goes on; raise ValueError if it holds another one."""
    for number in count(1):
        folder = out or (DEFAULT if number == 1 else DEFAULT.with_name(f"{DEFAULT.name}-{number}"))
        differing = conflicts(planned(folder), inputs, folder)
        if not differing:
            return folder
        told = f"{folder} holds runs that do not belong to this comparison; it has"
        if out is not None:
            raise ValueError(f"{told}{shortened(differing)}\nChoose a new folder with --out")
        say(console, f"{told} {differing[0]}. Trying the next folder")
    raise AssertionError  # unreachable: count() does not end


def report(
    results: Sequence[RunResult], out: Path, device: torch.device, console: Console
) -> list[LossResult]:
    """Write comparison.json, figures and report.html, and print the table."""
    losses = summarise(results)
    write_comparison(results, losses, out, device)

    from fusedface.recipes.compare.page import write_page  # matplotlib takes a second to import

    page = write_page(results, losses, out)
    console.print(rich_tables(losses))
    say(console, f"{how_to_read(results)} See {page}")
    return losses
