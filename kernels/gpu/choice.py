"""Which tile shape runs: the fastest measured one, or without measurements the first that ships.

Nothing is measured during training: a step must not wait for the device, and the order of its sums must
not depend on a timing. `tuning.tune` measures on request. Keys round B and C up to powers of
two, so that a new batch size finds the old entry.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
import triton

from fusedface.kernels.gpu import cache, launch, layout
from fusedface.kernels.gpu.launch import Start
from fusedface.kernels.gpu.tiles import Limits, Tile, shipped

Result = TypeVar("Result")


class Case(NamedTuple):
    """The key of a choice; `rows` and `classes` are buckets of B and C."""

    kernel: str
    dim: int
    precision: str
    rows: int
    classes: int


def case_of(kernel: str, shape: tuple[int, int, int], precision: str) -> Case:
    """The case of a kernel at (B, C, DIM)."""
    return Case(kernel, shape[2], precision, layout.bucket(shape[0]), layout.bucket(shape[1]))


class Decided:
    """What this process has decided; it holds until `forget`."""

    def __init__(self) -> None:
        self.tiles: dict[tuple[Case, Hashable, torch.device], Tile] = {}
        """The tile shapes that run, by case, variant of the kernel and device."""
        self.replays: dict[Hashable, Any] = {}
        """Launches of these tile shapes by signature (replay.py); None where they cannot be repeated."""
        self.readied: set[Hashable] = set()
        """Losses whose statistics have been computed once, so that their kernel is loaded (loss.py)."""
        self.watch: Callable[[Case, Callable[[Tile, Start], object]], None] | None = None
        """Sees every choice before it is made, and nothing is replayed, within `watched_by`."""

    @contextlib.contextmanager
    def watched_by(
        self, watch: Callable[[Case, Callable[[Tile, Start], object]], None]
    ) -> Iterator[None]:
        """Show `watch` the case of every kernel that is started, and what starts it with a tile shape."""
        self.watch = watch
        try:
            yield
        finally:
            self.watch = None

    def forget(self) -> None:
        """Decide again when a kernel is next started."""
        self.tiles.clear()
        self.replays.clear()
        self.readied.clear()


decided = Decided()


def first_that_runs(
    kernel: str,
    shape: tuple[int, int, int],
    device: torch.device,
    precision: str,
    run: Callable[[Tile, Start], Result],
    variant: Hashable = None,
) -> Result:
    """`run(tile, start)` with the best tile shape for (B, C, DIM) that the device accepts.

    A tile shape that does not fit or compile is left out, with a warning. One that spills, which depends
    on the compiler, comes after those that do not. The choice is made once, from the compiled kernels,
    before any of them has run.

    Args:
        kernel: its name in the tables.
        shape: (B, C, DIM).
        device: where it runs.
        precision: of the products.
        run: starts the kernel, through the function it is given.
        variant: what else the compiled code depends on.

    Raises:
        RuntimeError: the device accepts none, or a CUDA graph is being captured and nothing is chosen yet.
    """
    case = case_of(kernel, shape, precision)
    if decided.watch is not None:
        decided.watch(case, run)
    key = (case, variant, device)
    if tile := decided.tiles.get(key):
        return run(tile, launch.start)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"the {kernel!r} kernel for (B, C, D) = {shape} has to be compiled, which cannot be done while "
            "a CUDA graph is captured: run one step of the same sizes and dtypes before"
        )
    tiles = list(ranked(case, device))
    for begin in (launch.start_unspilled, launch.start):
        for tile in tuple(tiles):
            try:
                result = run(tile, begin)
            except launch.SpillsError:
                continue
            except launch.REFUSALS as error:
                tiles.remove(tile)
                message = f"{kernel} kernel: {tile} does not work on this device, trying the next"
                warnings.warn(f"{message} ({error})", RuntimeWarning, stacklevel=2)
                continue
            decided.tiles[key] = tile
            return result
    raise RuntimeError(
        f"no tile shape of the {kernel!r} kernel works on this device for {case}: "
        "use backend='chunked'"
    )


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
    itemsize = layout.OPERANDS[case.precision].dtype.itemsize
    return shipped(case.kernel, case.dim, case.precision, itemsize, limits(device))


@functools.lru_cache
def limits(device: torch.device) -> Limits:
    """Architecture and shared memory of a program on `device`."""
    if device.type != "cuda":
        return Limits("sm_80", 2**30)  # the interpreter has no limit
    if torch.version.hip:
        return Limits("gfx942", 2**16)
    properties = torch.cuda.get_device_properties(device)
    capability = 10 * properties.major + properties.minor
    return limits_of(capability, properties.shared_memory_per_block_optin)


def limits_of(capability: int, shared_memory: int) -> Limits:
    """Of an NVIDIA GPU: the newest architecture with a table that is not newer than it."""
    newest = max((arch for arch in (80, 90, 100) if arch <= capability), default=80)
    return Limits(f"sm_{newest}", shared_memory)


@functools.lru_cache
def device_name(device: torch.device) -> str:
    """The key of stored measurements: the model of the device and the version of the compiler."""
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
    """Read the file again and decide again."""
    stored.cache_clear()
    ranked.cache_clear()
    decided.forget()
