"""A Triton driver without a device: kernels are compiled for sm_80, and starting one only notes it."""

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import compiler

from fusedface.kernels import checks
from fusedface.kernels.gpu import (
    arguments,
    choice,
    chunk_gradients,
    combination,
    gradients,
    log_sum_exp,
    margin,
    reductions,
    rows,
    update,
)

KERNELS = (
    chunk_gradients,
    combination,
    gradients,
    log_sum_exp,
    margin,
    reductions,
    rows,
    update,
)
LAUNCH_ARGUMENTS = 9  # that a launcher gets before those of the kernel


class StubDriver:
    """What Triton asks of a driver. `spills` says of each kernel loaded how many words it spills."""

    def __init__(
        self,
        spills: Callable[[str, int], int] = lambda name, nth: 0,  # noqa: ARG005
        shared_memory: int = 2**20,
    ) -> None:
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
        """The only one."""
        return 0

    def get_current_stream(self, device: int) -> int:  # noqa: ARG002
        """The only one."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """What kernels are compiled for."""
        return GPUTarget("cuda", 80, 32)

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        """What starts a kernel: it notes the name and the blocks."""
        names = source.fn.arg_names
        blocks = {names[i]: size for (i,), size in source.constants.items() if "BLOCK" in names[i]}
        return functools.partial(self._start, metadata.name, blocks)

    def blocks(self, kernel: str) -> list[dict[str, int]]:
        """Those with which a kernel was started, in order."""
        return [blocks for name, blocks in self.started if name == kernel]

    def _load_binary(self, name: str, *_: object) -> tuple[object, int, int, int, int]:
        self.loaded.append(name)
        return object(), 0, 128, self._spills(name, self.loaded.count(name)), 1024

    def _start(self, name: str, blocks: dict[str, int], *args: Any) -> None:
        self.started.append((name, blocks))
        if name == "margin_kernel":  # labels are in order, which an assertion reads
            fits = args[LAUNCH_ARGUMENTS + margin.margin_kernel.arg_names.index("fits_ptr")]
            ctypes.memset(fits.data_ptr(), 1, 1)  # as a kernel would: no operator of PyTorch's


@contextlib.contextmanager
def installed(driver: StubDriver) -> Iterator[StubDriver]:
    """Tensors of the CPU are taken as a GPU's: nothing is read, kernels go to the driver."""
    with (
        mock.patch.object(triton.runtime.driver, "_active", driver),
        mock.patch.object(arguments, "INTERPRETED", new=True),  # which welcomes CPU tensors
        mock.patch.object(checks, "can_be_read", return_value=False),
    ):
        forget()
        try:
            yield driver
        finally:
            forget()


def forget() -> None:
    """Whatever was compiled, loaded or decided with another driver."""
    compiler.max_shared_mem.cache_clear()
    choice.forget()
    for module in KERNELS:
        for kernel in vars(module).values():
            if isinstance(kernel, triton.JITFunction):
                kernel.device_caches.clear()
