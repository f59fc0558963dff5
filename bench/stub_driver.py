"""A Triton driver without a device: it compiles kernels (for sm_80 by default) and records launches."""

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import compiler

from fusedface.kernels import checks
from fusedface.kernels.gpu import (
    arguments,
    choice,
    chunk_gradients,
    chunk_sums,
    combination,
    gradients,
    kept,
    keys,
    log_sum_exp,
    margin,
    reductions,
    row_update,
    rows,
    update,
)

KERNELS = (
    chunk_gradients,
    chunk_sums,
    combination,
    gradients,
    kept,
    keys,
    log_sum_exp,
    margin,
    reductions,
    row_update,
    rows,
    update,
)
LAUNCH_ARGUMENTS = 9  # arguments of a launcher before those of the kernel


class StubDriver:
    """The interface that Triton needs of a driver.

    Args:
        spills: the words that each kernel spills.
        shared_memory: bytes that a program may have.
        capability: of the GPU that kernels are compiled for.
        launcher: called with the source and the metadata of each kernel that is compiled.
    """

    def __init__(
        self,
        spills: Callable[[str, int], int] = lambda name, nth: 0,  # noqa: ARG005
        shared_memory: int = 2**20,
        capability: int = 80,
        launcher: Callable[[Any, Any], object] = lambda source, metadata: None,  # noqa: ARG005
    ) -> None:
        self._capability, self._launcher = capability, launcher
        self.started: list[tuple[str, dict[str, int]]] = []
        self.loaded: list[str] = []
        self._spills = spills
        properties = {"max_shared_mem": shared_memory, "multiprocessor_count": 3, "warpSize": 32}
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: properties,  # noqa: ARG005
            load_binary=self._load_binary,
            unload_module=lambda module: None,  # noqa: ARG005
        )

    def get_current_device(self) -> int:
        """The index of the only device."""
        return 0

    def get_current_stream(self, device: int) -> int:  # noqa: ARG002
        """The handle of the only stream."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """The target of the compiler."""
        return GPUTarget("cuda", self._capability, 32)

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        """The launcher of a kernel, which records the name and the block sizes."""
        self._launcher(source, metadata)
        names = source.fn.arg_names
        blocks = {names[i]: size for (i,), size in source.constants.items() if "BLOCK" in names[i]}
        return functools.partial(self._start, metadata.name, blocks)

    def blocks(self, kernel: str) -> list[dict[str, int]]:
        """The block sizes of each launch of a kernel, in order."""
        return [blocks for name, blocks in self.started if name == kernel]

    def _load_binary(self, name: str, *_: object) -> tuple[object, int, int, int, int]:
        self.loaded.append(name)
        return object(), 0, 128, self._spills(name, self.loaded.count(name)), 1024

    def _start(self, name: str, blocks: dict[str, int], *args: Any) -> None:
        self.started.append((name, blocks))
        if name == "margin_kernel":  # its flag "labels are valid", which an assertion reads
            fits = args[LAUNCH_ARGUMENTS + margin.margin_kernel.arg_names.index("fits_ptr")]
            address = fits if isinstance(fits, int) else fits.data_ptr()
            ctypes.memset(address, 1, 1)  # as a kernel would, without a torch operator


@contextlib.contextmanager
def installed(driver: StubDriver) -> Iterator[StubDriver]:
    """Within the block, CPU tensors pass as GPU tensors: no value is read, launches go to the driver."""
    with (
        mock.patch.object(triton.runtime.driver, "_active", driver),
        mock.patch.object(arguments, "INTERPRETED", new=True),  # so that CPU tensors are accepted
        mock.patch.object(checks, "can_be_read", _no),  # a mock would take longer than a launch
    ):
        forget()
        try:
            yield driver
        finally:
            forget()


def _no(device: torch.device) -> bool:  # noqa: ARG001
    return False


def forget() -> None:
    """Clear all caches of what was compiled, loaded or chosen with another driver."""
    compiler.max_shared_mem.cache_clear()
    choice.forget()
    for module in KERNELS:
        for kernel in vars(module).values():
            if isinstance(kernel, triton.JITFunction):
                kernel.device_caches.clear()
