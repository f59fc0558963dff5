"""Measuring tile shapes on a device, on request."""

import functools
import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.gpu import choice, launch, primitive
from fusedface.kernels.gpu.choice import Case
from fusedface.kernels.gpu.launch import Start
from fusedface.kernels.gpu.tiles import Tile
from fusedface.kernels.interface.negatives import Reweighting
from fusedface.kernels.interface.primitive import Spec

REPEATS = 20
FLUSH_BYTES = 2**28  # more than any last-level cache holds: a training step finds it cold, too

Measure = Callable[[Callable[[], object], torch.device], float]


class Timing(NamedTuple):
    """One measurement, in milliseconds; infinite where the tile shape spills or does not work."""

    case: Case
    tile: Tile
    milliseconds: float


def median_ms(call: Callable[[], object], device: torch.device) -> float:
    """Median time of `call` on a CUDA device, the cache cold each time."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
    call()
    times = []
    for _ in range(REPEATS):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def tune(
    num_rows: int,
    num_classes: int,
    dim: int,
    *,
    precision: str = "bfloat16",
    device: torch.device | str = "cuda",
    measure: Measure = median_ms,
) -> list[Timing]:
    """Time every shipped tile shape of every kernel of one step, and keep the fastest for later steps.

    Args:
        num_rows: B; the result holds for all B with the same next power of two.
        num_classes: C; likewise.
        dim: D.
        precision: one of `primitive.PRECISIONS`.
        device: where to measure.
        measure: milliseconds of a call on a device.

    Returns:
        All measurements. The fastest tile shapes are in the file `cache.path()`.
    """
    device = torch.empty((), device=device).device  # "cuda" with its number
    timings: list[Timing] = []

    def time_all(case: Case, run: Callable[[Tile, Start], object]) -> None:
        if any(timing.case == case for timing in timings):
            return
        timings.extend(
            Timing(case, tile, _time(functools.partial(run, tile), device, measure))
            for tile in choice.ranked(case, device)
        )

    with choice.decided.watched_by(time_all):
        step(num_rows, num_classes, dim, precision, device)
    choice.keep(device, _fastest(timings))
    return timings


def _time(run: Callable[[Start], object], device: torch.device, measure: Measure) -> float:
    try:
        run(launch.start_unspilled)
        return measure(lambda: run(launch.start), device)
    except (launch.SpillsError, *launch.REFUSALS):
        return math.inf


def _fastest(timings: list[Timing]) -> dict[Case, Tile]:
    best: dict[Case, Tile] = {}
    for timing in sorted(timings, key=lambda timing: timing.milliseconds):
        if timing.milliseconds < math.inf:
            best.setdefault(timing.case, timing.tile)
    return best


def step(
    num_rows: int, num_classes: int, dim: int, precision: str, device: torch.device
) -> tuple[Tensor, ...]:
    """A forward without gradients, then one with gradients and its backward, at t = 0.3."""
    embeddings = torch.randn(num_rows, dim, device=device, requires_grad=True)
    weight = torch.randn(num_classes, dim, device=device, requires_grad=True)
    labels = torch.randint(num_classes, (num_rows,), device=device)
    threshold = torch.zeros(num_rows, device=device)  # half of the negatives are hard
    linear = torch.full((), 0.3, device=device)
    spec = Spec(64.0, Reweighting(square=1.0, linear=linear), precision)
    with torch.no_grad():
        primitive.cosine_lse(embeddings, weight, labels, threshold, spec)
    out = primitive.cosine_lse(embeddings, weight, labels, threshold, spec)
    return torch.autograd.grad((out.cos_y + out.lse).sum(), (embeddings, weight))
