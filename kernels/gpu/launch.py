"""Starting kernels: on the tensors' device, with the first tile shape that works there."""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from fusedface.kernels.gpu import choice
from fusedface.kernels.gpu.choice import Case
from fusedface.kernels.gpu.configs import Tile

Result = TypeVar("Result")
Watch = Callable[[Case, Callable[[Tile], object]], None]

# What a tile shape can fail with before anything has run: too much shared memory, or a compiler's no.
REFUSALS = (OutOfResources, PTXASError, CompilationError)

watch: Watch | None = None  # sees every choice before it is made; set by tuning.tune


def start(
    kernel: Any, grid: int, *args: object, tile: Tile | None = None, **constants: object
) -> None:
    """Start `grid` programs; `tile` gives the blocks, warps and stages."""
    tile = tile or Tile()
    # Contraction to fused multiply-adds is asked for: Triton 3.10 no longer does it by itself.
    kernel[(grid,)](
        *args, **constants, **tile.blocks(),
        num_warps=tile.num_warps, num_stages=tile.num_stages, enable_fp_fusion=True,
    )  # fmt: skip


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make `device` current: Triton starts kernels on the current device and its current stream."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def first_that_runs(
    kernel: str,
    shape: tuple[int, int, int],
    device: torch.device,
    precision: str,
    run: Callable[[Tile], Result],
) -> Result:
    """`run(tile)` with the best tile shape for (B, C, DIM) that the device accepts.

    A tile shape that does not fit or compile is left out with a warning. Nothing else changes.

    Raises:
        RuntimeError: the device accepts none.
    """
    case = choice.case_of(kernel, shape, precision)
    if watch is not None:
        watch(case, run)
    for tile in choice.ranked(case, device):
        try:
            return run(tile)
        except REFUSALS as error:
            choice.refuse(case, device, tile, error)
    raise RuntimeError(
        f"no tile shape of the {kernel!r} kernel works on this device for {case}: "
        "use backend='chunked'"
    )
