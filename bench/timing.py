"""Timing on a noisy machine: all heads take turns in one process; medians and paired ratios."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

FLUSH_BYTES = (
    2**28
)  # more than the last-level cache of any GPU; in a training step the cache is cold too
MIN_ROUNDS = 3  # however little time there is


class Stopwatch(Protocol):
    """Measures the seconds of each of several calls, one after the other."""

    def __call__(self, calls: Sequence[Callable[[], object]]) -> list[float]:
        """Seconds of each call, including the work of the device."""
        ...


def stopwatch(device: torch.device) -> Stopwatch:
    """The stopwatch of a device. On CUDA it records events between calls, and starts with a cold cache."""
    if device.type != "cuda":
        return _on_host
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)

    def on_cuda(calls: Sequence[Callable[[], object]]) -> list[float]:
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(calls) + 1)]
        torch.cuda.synchronize(device)
        flush.zero_()
        marks[0].record()
        for call, mark in zip(calls, marks[1:], strict=True):
            call()
            mark.record()
        torch.cuda.synchronize(device)
        return [1e-3 * begin.elapsed_time(end) for begin, end in itertools.pairwise(marks)]

    return on_cuda


def _on_host(calls: Sequence[Callable[[], object]]) -> list[float]:
    marks = [time.perf_counter()]
    for call in calls:
        call()
        marks.append(time.perf_counter())
    return [end - begin for begin, end in itertools.pairwise(marks)]


def alternate(
    runs: dict[str, Callable[[], dict[str, float]]], rounds: int, deadline: float = float("inf")
) -> dict[str, dict[str, list[float]]]:
    """Results of all runs in all rounds; each round calls each run once.

    A slow period of the machine then affects all runs, and ratios within a round stay fair.

    Args:
        runs: each returns figures by name, with the same names each time.
        rounds: the largest number of rounds.
        deadline: on the clock of `time.perf_counter`; no round begins after it, except MIN_ROUNDS.

    Returns:
        By run and figure, a list with one entry per round.
    """
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
    for done in range(rounds):
        if done >= MIN_ROUNDS and time.perf_counter() > deadline:
            break
        for name, run in runs.items():
            for figure, value in run().items():
                figures[name].setdefault(figure, []).append(value)
    return figures


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The 25, 50 and 75 % quantiles; a single value is all three."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, mid, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, mid, high


def paired_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Median over the rounds of values / base."""
    return statistics.median(v / b for v, b in zip(values, base, strict=True))
