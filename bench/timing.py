"""Timing on a noisy machine: all providers in one process, in turn, medians and paired ratios."""

import statistics
import time
from collections.abc import Callable

import torch


def clock(step: Callable[[], object], device: torch.device) -> float:
    """Seconds one call of `step` takes, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def alternate(
    steps: dict[str, Callable[[], object]], device: torch.device, rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each step in each of `rounds` rounds; every round runs every step once.

    A slow spell of the machine then falls on all of them, and ratios within a round stay fair.
    """
    for step in steps.values():
        for _ in range(warmup):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(clock(step, device))
    return seconds


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """25, 50 and 75 %; of fewer than two values, that value."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, mid, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, mid, high


def paired_ratio(values: list[float], base: list[float]) -> float:
    """Median over the rounds of values / base."""
    return statistics.median(v / b for v, b in zip(values, base, strict=True))
