"""Which tile shape runs: the measured one where there is a measurement, else the first that ships.

Nothing is measured during training: a step must not wait for the device, and the order of its sums must
not depend on a stop-watch. `tuning.tune` measures on request. Keys round B and C up to powers of
two, so that a new batch size finds the old entry.
"""

import functools
from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
import triton

from fusedface.kernels.gpu import cache, layout
from fusedface.kernels.gpu.configs import Limits, Tile, shipped


class Case(NamedTuple):
    """What a choice depends on; `rows` and `classes` are buckets of B and C."""

    kernel: str
    dim: int
    precision: str
    rows: int
    classes: int


def case_of(kernel: str, shape: tuple[int, int, int], precision: str) -> Case:
    """The case of a kernel at (B, C, DIM)."""
    return Case(kernel, shape[2], precision, layout.bucket(shape[0]), layout.bucket(shape[1]))


# What was decided, for a case, a variant of its kernel and a device (`launch.first_that_runs`).
taken: dict[tuple[Case, Hashable, torch.device], Tile] = {}


# How a call with that signature is repeated (`replay.run`); None where it is not.
replays: dict[Hashable, Any] = {}


@functools.lru_cache(maxsize=4096)
def ranked(case: Case, device: torch.device) -> tuple[Tile, ...]:
    """Tile shapes for `case` on `device`, in the order to try them."""
    tiles = list(candidates(case, device))
    best = stored(device_name(device)).get(case)
    if best in tiles:  # else the file is of a version that shipped other tile shapes
        tiles.remove(best)
        tiles.insert(0, best)
    return tuple(tiles)


def candidates(case: Case, device: torch.device) -> tuple[Tile, ...]:
    """Shipped tile shapes that fit the shared memory of `device`, best first."""
    return shipped(case.kernel, case.dim, case.precision, limits(device))


@functools.lru_cache
def limits(device: torch.device) -> Limits:
    """Architecture and shared memory of a program on `device`."""
    if device.type != "cuda":
        return Limits("sm_80", 2**30)  # the interpreter has no limit
    if torch.version.hip:
        return Limits("gfx942", 2**16)
    properties = torch.cuda.get_device_properties(device)
    capability = 10 * properties.major + properties.minor
    newest = max((arch for arch in (80, 90, 100) if arch <= capability), default=80)
    return Limits(f"sm_{newest}", properties.shared_memory_per_block_optin)


@functools.lru_cache
def device_name(device: torch.device) -> str:
    """What measurements are filed under: the model of the device and the version of the compiler."""
    model = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{model}, triton {triton.__version__}"


@functools.lru_cache
def stored(name: str) -> dict[Case, Tile]:
    """Measured choices for the device called `name`."""
    return {Case(*case): Tile(**tile) for case, tile in cache.load(name)}


def keep(device: torch.device, best: dict[Case, Tile]) -> None:
    """Add measured choices to those of `device`, here and in the file."""
    name = device_name(device)
    merged = stored(name) | best
    cache.save(name, [(list(case), vars(tile)) for case, tile in merged.items()])
    forget()


def forget() -> None:
    """Read the file anew and decide anew."""
    stored.cache_clear()
    ranked.cache_clear()
    taken.clear()
    replays.clear()
