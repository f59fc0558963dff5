"""Starting kernels on the tensors' device."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import torch
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

Start = Callable[..., object]  # `start`, or `start_unspilled`


class SpillsError(RuntimeError):
    """The compiled kernel spills registers to memory."""


class RefusedError(RuntimeError):
    """The compiler could not make the kernel, for any reason."""


# Errors of a tile shape before anything has run: too much shared memory, or it does not compile.
REFUSALS = (OutOfResources, PTXASError, CompilationError, RefusedError)

# Fused multiply-adds have to be asked for: Triton 3.10 no longer makes them by itself.
DEFAULTS = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": True}

# Whether a compiled kernel takes memory by its address, which costs the host less than a tensor. A driver
# that has to know the tensors sets it to False.
takes_addresses = True
# If it has a `note`, that is called with every launch (replay.py).
observer = threading.local()


def start(kernel: Any, grid: int, *args: object, tile: Any = None, **constants: object) -> None:
    """Start `grid` programs; `tile` (`tiles.Tile`) gives the blocks, warps and stages.

    Raises:
        RuntimeError: a CUDA graph is being captured, and the kernel would have to be loaded.
    """
    options = constants | _options(tile)
    if isinstance(args[0], torch.Tensor) and is_capturing(args[0].device):
        _check_loaded(kernel, kernel.warmup(*args, grid=(grid,), **options))
    compiled = kernel[(grid,)](*args, **options)
    if compiled is not None and (note := getattr(observer, "note", None)):
        names = kernel.arg_names[len(args) :]
        note(compiled, grid, args, tuple(options[name] for name in names))


def start_unspilled(
    kernel: Any, grid: int, *args: object, tile: Any = None, **constants: object
) -> None:
    """`start`, unless the compiled kernel spills.

    Raises:
        SpillsError: it does; nothing has run.
        RefusedError: it cannot be compiled; nothing has run.
    """
    try:
        compiled = load(kernel, grid, *args, tile=tile, **constants)
    except RuntimeError as error:  # the error of a failed compiler pass has no class of its own
        raise RefusedError(str(error)) from error
    if compiled is not None and compiled.n_spills:
        raise SpillsError(f"{4 * compiled.n_spills} bytes of a thread are spilled")
    start(kernel, grid, *args, tile=tile, **constants)


def load(kernel: Any, grid: int, *args: object, tile: Any = None, **constants: object) -> Any:
    """Load what `start` would, and run nothing; gives the compiled kernel, None in the interpreter."""
    compiled = kernel.warmup(*args, grid=(grid,), **constants, **_options(tile))
    if compiled is not None:
        compiled._init_handles()
    return compiled


def _check_loaded(kernel: Any, compiled: Any) -> None:
    """The driver's own error would end the capture and not say why."""
    if compiled is not None and compiled.module is None:
        raise RuntimeError(
            f"{kernel.__name__} has to be loaded, which cannot be done while a CUDA graph is captured: run "
            "one step of the same sizes, strides and dtypes before"
        )


def _options(tile: Any) -> dict[str, Any]:
    return DEFAULTS | (tile.options() if tile else {})


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is captured from the current stream."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make `device` current: Triton starts kernels on the current device and its current stream."""
    return torch.cuda.device(device) if device.type == "cuda" else _NOTHING


_NOTHING = contextlib.nullcontext()
