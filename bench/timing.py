"""Timing on a noisy machine: all heads in one process, in turn, medians and paired ratios."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

FLUSH_BYTES = (
    2**28
)  # more than any last-level cache of a GPU holds; a training step finds it cold too
MIN_ROUNDS = 3  # however little time there is


class Stopwatch(Protocol):
    """Seconds that each of some calls takes, one after the other."""

    def __call__(self, calls: Sequence[Callable[[], object]]) -> list[float]:
        """Seconds of each call, the device's work included."""
        ...


def stopwatch(device: torch.device) -> Stopwatch:
    """The way to measure on a device: events between the calls on CUDA, and its cache cold before them."""
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
    """What each run returned in each round; every round runs every one of them once.

    A slow spell of the machine then falls on all of them, and ratios within a round stay fair.

    Args:
        runs: each returns named figures, the same names each time.
        rounds: at most so many.
        deadline: on the clock of `time.perf_counter`; no round begins after it, except MIN_ROUNDS.

    Returns:
        By run and figure, a list with an entry a round.
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
    """25, 50 and 75 %; of fewer than two values, that value."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, mid, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, mid, high


def paired_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Median over the rounds of values / base."""
    return statistics.median(v / b for v, b in zip(values, base, strict=True))
