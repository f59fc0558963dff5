"""Runs several trainings one after the other, each on all processes that torchrun has started."""

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from rich.console import Console

from fusedface.recipes.compare.results import PlannedRun
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.host.terminal import error_text, say
from fusedface.recipes.host.watch import LostProcessError
from fusedface.recipes.run_directory.summary import Summary
from fusedface.recipes.training.signals import StopRequest

POLL_SECONDS = 1.0
WIDTH = 200  # of lines in a file

OnPoll = Callable[[set[PlannedRun]], None]
RunRecipe = Callable[..., Summary]
"""`run_recipe`."""


def run_in_turn(
    runs: Sequence[PlannedRun],
    device: torch.device,
    processes: Processes,
    run_recipe: RunRecipe,
    on_poll: OnPoll,
    may_begin: Callable[[], bool] = lambda: True,
) -> str | None:
    """Run everything in order; all processes call it. The output of a run goes to seedN.txt.

    Args:
        runs: the unfinished runs, the same on all processes.
        device: the device of the runs.
        processes: the processes that share each run.
        run_recipe: trains one recipe in one run directory.
        on_poll: called once a second with the run in progress, on the first process.
        may_begin: whether another run may begin; only the first process is asked.

    Returns:
        What stopped it if any process has received a signal: the signal and the run. Else None.
    """
    with StopRequest() as stop:
        for run in runs:
            if name := _any_signal(stop, processes):
                return f"{name} before {run.label}, seed {run.seed}"
            if not processes.from_first(may_begin):
                return None
            if told := _run(run, device, processes, run_recipe, on_poll):
                return told
            gc.collect()  # networks of earlier runs, so that they take no memory of the device
    return None


def _run(
    run: PlannedRun,
    device: torch.device,
    processes: Processes,
    run_recipe: RunRecipe,
    on_poll: OnPoll,
) -> str | None:
    """One run; says what stopped it if a signal did. An error is the last line of its output."""
    with _output(run, processes) as console, _polled(run, processes, on_poll):
        try:
            summary = run_recipe(
                run.recipe, run.folder, resume=True, device=device, console=console,
                processes=processes,
            )  # fmt: skip
        except LostProcessError:
            raise
        except (ValueError, OSError) as error:  # raised on all processes, which go on together
            say(console, f"error: {error_text(error)}")
            return None
    if summary.verdict != "interrupted":
        return None
    return f"{summary.message} of {run.label}, seed {run.seed}"


def _any_signal(stop: StopRequest, processes: Processes) -> str | None:
    """The name of a signal that any process has received."""
    return next((name for name in processes.gather(stop.signal_name) if name), None)


@contextmanager
def _output(run: PlannedRun, processes: Processes) -> Iterator[Console]:
    """A console whose output goes to the run's file; the other processes print nothing."""
    if not processes.is_first:
        yield Console(quiet=True)
        return
    with run.output.open("a", encoding="utf-8") as log:
        yield Console(file=log, width=WIDTH)


@contextmanager
def _polled(run: PlannedRun, processes: Processes, on_poll: OnPoll) -> Iterator[None]:
    """Call `on_poll` on the first process while the block runs."""
    if not processes.is_first:
        yield
        return
    ended = threading.Event()

    def poll() -> None:
        while not ended.wait(POLL_SECONDS):
            on_poll({run})

    on_poll({run})
    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        on_poll(set())
