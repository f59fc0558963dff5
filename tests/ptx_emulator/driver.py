"""A Triton driver without a GPU: kernels are compiled as for a device and run by `machine`.

with emulated_gpu(80).active(Options(check_races=True)) as runs:
    kernel[grid](*cpu_tensors, **constants)
"""

import contextlib
import functools
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from ptx_emulator import arguments
from ptx_emulator.machine import Options, Program
from ptx_emulator.ptx import PtxError

# Bytes that one program may have, by ten times the major and once the minor compute capability.
SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448}
MULTIPROCESSORS = 2


class Run(NamedTuple):
    """One launch as it was run; `counts` are its warp instructions by index of the program."""

    name: str
    constants: dict[str, Any]
    num_warps: int
    num_stages: int
    grid: tuple[int, int, int]
    program: Program
    counts: list[int]


class Binary(NamedTuple):
    """A loaded kernel: its PTX, and what ptxas made of it."""

    ptx: str
    registers: int
    stack: int  # bytes of a thread, which is what spills


class EmulatedGPU(DriverBase):
    """What Triton asks of a driver. Make it with `emulated_gpu`: one for each compute capability.

    Triton keeps compiled kernels by the number of the device. Each emulated GPU has a number of its
    own, so what is compiled for it is never started on another device, nor the reverse.
    """

    def __init__(self, capability: int) -> None:
        super().__init__()
        self.capability = capability
        self.options = Options()
        self.runs: list[Run] = []
        self._edit: Callable[[str], str] | None = None
        self._ptx_path: Path | None = None
        self._programs: dict[str, Program] = {}
        self.utils = _Utilities(self)
        self.launcher_cls = functools.partial(_Launcher, self)
        knobs.runtime.kernel_load_start_hook.add(self._before_load)

    @contextlib.contextmanager
    def active(
        self, options: Options | None = None, edit: Callable[[str], str] | None = None
    ) -> Iterator[list[Run]]:
        """Make this Triton's device; gives the list of what runs, in order.

        Args:
            options: how kernels run.
            edit: changes the PTX before it runs, to see what a changed kernel does.
        """
        driver = triton.runtime.driver
        before = driver._active  # `driver.active` would look for a GPU
        self.options, self._edit, self.runs = options or Options(), edit, []
        driver.set_active(self)
        try:
            yield self.runs
        finally:
            driver._active = before

    def program(self, binary: Binary) -> Program:
        """What runs of a loaded kernel."""
        text = self._edit(binary.ptx) if self._edit else binary.ptx
        if text not in self._programs:
            self._programs[text] = Program(text)
        return self._programs[text]

    def load(self, cubin: bytes) -> Binary:
        """The kernel that Triton is about to load."""
        assert self._ptx_path is not None
        return Binary(self._ptx_path.read_text(), *_resources(cubin))

    def _before_load(self, module, function, name, metadata_group, hash) -> None:  # noqa: A002
        paths = (Path(path) for path in metadata_group.values())
        self._ptx_path = next((path for path in paths if path.suffix == ".ptx"), None)

    @classmethod
    def is_active(cls) -> bool:
        """Never by itself, only through `active`."""
        return False

    def get_current_device(self) -> int:
        """The number of the device, under which Triton keeps what it compiled."""
        return self.capability

    def get_current_stream(self, device: int) -> int:
        """Launches run at once, whatever the stream."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """What to compile for."""
        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self) -> torch.device:
        """Where the tensors are."""
        return torch.device("cpu")

    def map_python_to_cpp_type(self, ty: str) -> str:
        """As NVIDIA's driver has it."""
        from triton.backends.nvidia.driver import ty_to_cpp

        return ty_to_cpp(ty)

    def get_benchmarker(self) -> Callable[..., Any]:
        """There is none."""
        raise NotImplementedError("times of an emulator mean nothing")


@functools.cache
def emulated_gpu(capability: int) -> EmulatedGPU:
    """The emulated GPU of a compute capability: a key of `SHARED_MEMORY`."""
    return EmulatedGPU(capability)


class _Utilities:
    """What Triton asks of a driver's C part."""

    def __init__(self, gpu: EmulatedGPU) -> None:
        self._gpu = gpu

    def load_binary(self, name: str, cubin: bytes, shared: int, device: int) -> tuple[Any, ...]:
        """Module, function, registers, words spilled, most threads of a program."""
        binary = self._gpu.load(cubin)
        return binary, binary, binary.registers, binary.stack // 4, 1024

    def unload_module(self, module: Binary) -> None:
        """Nothing is held outside Python."""

    def get_device_properties(self, device: int) -> dict[str, Any]:
        """Of them, `max_shared_mem` is the one that Triton obeys."""
        return {
            "max_shared_mem": SHARED_MEMORY[self._gpu.capability],
            "multiprocessor_count": MULTIPROCESSORS, "max_num_regs": 65536, "warpSize": 32,
            "sm_clock_rate": 0, "mem_clock_rate": 0, "mem_bus_width": 0,
        }  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__path__[0]) / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [tool, "-res-usage", path]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert match, text
    return int(match[1]), int(match[2])


class _Launcher:
    """Called in place of the launcher that Triton would compile."""

    def __init__(self, gpu: EmulatedGPU, source: Any, metadata: Any) -> None:
        if metadata.num_ctas > 1:
            raise PtxError("clusters of programs are not supported")
        self._gpu, self._metadata = gpu, metadata
        self._signature = source.signature
        names = list(source.signature)
        self._constants = {
            names[key[0]]: value for key, value in source.constants.items() if len(key) == 1
        }

    def __call__(
        self, grid_x, grid_y, grid_z, stream, binary, packed, metadata, enter, leave, *args
    ) -> None:  # fmt: skip
        gpu, launched = self._gpu, self._metadata
        program, grid = gpu.program(binary), (grid_x, grid_y, grid_z)
        passed = arguments.collect(self._signature, args, launched)
        passed.add_scratch(launched, grid_x * grid_y * grid_z)
        counts = program.run(
            grid, launched.num_warps, passed.by_parameter(program.kernel),
            passed.memory(gpu.options.check_races and not program.updates_in_place),
            launched.shared, gpu.options, gpu.capability,
        )  # fmt: skip
        gpu.runs.append(
            Run(program.kernel.name, self._constants, launched.num_warps, launched.num_stages,
                grid, program, counts)
        )  # fmt: skip
