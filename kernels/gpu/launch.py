"""Starting kernels: on the tensors' device, with the first tile shape that works there."""

import contextlib
import threading
import warnings
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from fusedface.kernels.gpu import choice
from fusedface.kernels.gpu.choice import Case
from fusedface.kernels.gpu.configs import Tile

Result = TypeVar("Result")
Start = Callable[..., object]  # `start`, or `start_unspilled`
Watch = Callable[[Case, Callable[[Tile, Start], object]], None]


class SpillsError(RuntimeError):
    """A kernel as this compiler makes it keeps registers in memory."""


class RefusedError(RuntimeError):
    """A compiler could not make a kernel, whatever it raised."""


# What a tile shape can fail with before anything has run: too much shared memory, or a compiler's no.
REFUSALS = (OutOfResources, PTXASError, CompilationError, RefusedError)

observer = (
    threading.local()
)  # its `note`, where it has one, is told of what was started (replay.py)
watch: Watch | None = None  # sees every choice before it is made; set by tuning.tune


def start(
    kernel: Any, grid: int, *args: object, tile: Tile | None = None, **constants: object
) -> None:
    """Start `grid` programs; `tile` gives the blocks, warps and stages."""
    options = constants | _options(tile)
    compiled = kernel[(grid,)](*args, **options)
    if compiled is not None and (note := getattr(observer, "note", None)):
        names = kernel.arg_names[len(args) :]
        note(compiled, grid, args, tuple(options[name] for name in names))


def start_unspilled(
    kernel: Any, grid: int, *args: object, tile: Tile | None = None, **constants: object
) -> None:
    """`start`, unless the compiled kernel spills.

    Raises:
        SpillsError: it does; nothing has run.
        RefusedError: it cannot be compiled; nothing has run.
    """
    try:
        compiled = kernel.warmup(*args, grid=(grid,), **constants, **_options(tile))
    except RuntimeError as error:  # a pass of the compiler that fails has no class of its own
        raise RefusedError(str(error)) from error
    if compiled is not None:  # the interpreter compiles nothing
        compiled._init_handles()
        if compiled.n_spills:
            raise SpillsError(f"{4 * compiled.n_spills} bytes of a thread are spilled")
    start(kernel, grid, *args, tile=tile, **constants)


def _options(tile: Tile | None) -> dict[str, Any]:
    tile = tile or Tile()
    # Contraction to fused multiply-adds is asked for: Triton 3.10 no longer does it by itself.
    warps = {"num_warps": tile.num_warps, "num_stages": tile.num_stages, "enable_fp_fusion": True}
    if tile.max_registers and not torch.version.hip:
        warps["maxnreg"] = tile.max_registers
    return tile.blocks() | warps


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make `device` current: Triton starts kernels on the current device and its current stream."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def first_that_runs(
    kernel: str,
    shape: tuple[int, int, int],
    device: torch.device,
    precision: str,
    run: Callable[[Tile, Start], Result],
    variant: Hashable = None,
) -> Result:
    """`run(tile, start)` with the best tile shape for (B, C, DIM) that the device accepts.

    A tile shape that does not fit or compile is left out with a warning; one that spills, as some do
    with one compiler and not with another, comes after those that do not. Nothing else changes. This
    is decided from what was compiled alone, before anything has run, and then holds.

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
    case = choice.case_of(kernel, shape, precision)
    if watch is not None:
        watch(case, run)
    key = (case, variant, device)
    if tile := choice.taken.get(key):
        return run(tile, start)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"the {kernel!r} kernel for (B, C, D) = {shape} has to be compiled, which cannot be done while "
            "a CUDA graph is captured: run one step of the same sizes and dtypes before"
        )
    tiles = list(choice.ranked(case, device))
    for begin in (start_unspilled, start):
        for tile in tuple(tiles):
            try:
                result = run(tile, begin)
            except SpillsError:
                continue
            except REFUSALS as error:
                tiles.remove(tile)
                message = f"{kernel} kernel: {tile} does not work on this device, trying the next"
                warnings.warn(f"{message} ({error})", RuntimeWarning, stacklevel=2)
                continue
            choice.taken[key] = tile
            return result
    raise RuntimeError(
        f"no tile shape of the {kernel!r} kernel works on this device for {case}: "
        "use backend='chunked'"
    )
