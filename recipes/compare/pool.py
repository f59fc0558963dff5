"""Runs several trainings in separate processes, a few at a time."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import sleep

import torch

from fusedface.recipes.compare.results import PlannedRun
from fusedface.recipes.configuration.settings import to_toml
from fusedface.recipes.run_directory.files import write_text
from fusedface.recipes.training.signals import StopRequest

POLL_SECONDS = 0.25
MEMORY_PER_RUN = 2 * 2**30  # bytes; a run of the protocol "small" took 0.9 GiB, plus reserve
MAX_JOBS = 8


def default_jobs(device: torch.device) -> int:
    """Number of simultaneous runs that CPU cores and free memory allow; one on a GPU."""
    if device.type != "cpu":
        return 1
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not available on every system
        return 1
    return max(1, min(os.cpu_count() or 1, MAX_JOBS, free // MEMORY_PER_RUN))


def run_all(
    runs: Sequence[PlannedRun],
    jobs: int,
    device: torch.device,
    on_poll: Callable[[set[PlannedRun]], None],
    may_begin: Callable[[], bool] = lambda: True,
) -> str | None:
    """Run everything in order, `jobs` at a time; returns when all runs have ended.

    The output of a run goes to seedN.txt next to its directory, and its recipe to seedN.toml. After a
    signal all runs save and end, and no other run starts.

    Args:
        runs: the unfinished runs.
        jobs: number of simultaneous runs; on a CPU they share its cores evenly.
        device: the device of the runs.
        on_poll: called a few times per second with the runs in progress.
        may_begin: whether another run may begin; after False the waiting runs are dropped.

    Returns:
        The name of a received signal, or None.
    """
    waiting = list(runs)
    running: dict[PlannedRun, subprocess.Popen[bytes]] = {}
    threads = max(1, (os.cpu_count() or 1) // jobs)
    told = False
    with StopRequest() as stop:
        try:
            while running or (waiting and stop.signal_name is None and may_begin()):
                while waiting and len(running) < jobs and stop.signal_name is None and may_begin():
                    run = waiting.pop(0)
                    running[run] = _start(run, device, threads)
                if stop.signal_name is not None and not told:
                    told = True
                    for process in running.values():
                        process.terminate()
                on_poll(set(running))
                sleep(POLL_SECONDS)
                running = {run: p for run, p in running.items() if p.poll() is None}
        finally:  # after a second signal, or an error here
            for process in running.values():
                process.kill()
    return stop.signal_name


def _start(run: PlannedRun, device: torch.device, threads: int) -> subprocess.Popen[bytes]:
    recipe = write_recipe(run)
    # The user's own number of threads counts.
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "fusedface.recipes.compare.worker"]
    command += [str(recipe), str(run.folder), str(device)]
    with run.output.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            # A terminal sends Ctrl-C to all its processes. With our own signal a run would get two, and it
            # would stop at once without saving.
            start_new_session=True,
        )


def write_recipe(run: PlannedRun) -> Path:
    """Write the recipe next to the run's directory, which must be empty when the run begins."""
    path = run.folder.with_suffix(".toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, to_toml(run.recipe))
    return path
