"""What a comparison has to do: its folder, and the runs that are not finished."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from fusedface.recipes.compare.pool import default_jobs, write_recipe
from fusedface.recipes.compare.results import PlannedRun, read_result
from fusedface.recipes.compare.reuse import Inputs, conflicts, inputs_of, record
from fusedface.recipes.compare.study import find, write_runs
from fusedface.recipes.compare.tables import settings_line
from fusedface.recipes.compare.texts import shortened
from fusedface.recipes.host.terminal import say

DEFAULT = Path("runs/compare")


class ToDo(NamedTuple):
    """What is left of a comparison, the same on all processes."""

    out: Path
    inputs: Inputs
    waiting: list[int]
    """Indices of the planned runs that are not finished."""
    jobs: int


def begin(
    out: Path | None,
    planned: Callable[[Path], list[PlannedRun]],
    study: Path | None,
    jobs: int | None,
    device: torch.device,
    console: Console,
) -> ToDo:
    """Choose the folder, and what is to be made; record what the runs rest on.

    Raises:
        ValueError: see `compare`.
    """
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
