"""An NVIDIA GPU emulated on a CPU, for Triton: it runs the PTX that Triton compiles (docs/emulator.md).

driver.py         a Triton driver: compiles as for a device, launches here
arguments.py      what a launch passes
ptx.py            PTX text to instructions
machine.py        programs, warps and their schedules
building.py       an instruction becomes a function; its operands
instructions.py   all of them: *_instructions.py, tensor_cores.py
barriers.py, tensor_maps.py    barriers that count bytes, copies of boxes
memory.py         global and shared memory with their bounds
divergence.py     branches that part the lanes of a warp
races.py          who touched what, and since when
arithmetic.py     number formats and roundings
profiles.py       executed instructions by class
"""

from ptx_emulator.driver import EmulatedGPU, Run, emulated_gpu
from ptx_emulator.machine import Options
from ptx_emulator.memory import OutOfBoundsError
from ptx_emulator.ptx import PtxError
from ptx_emulator.races import RaceError

__all__ = [
    "EmulatedGPU", "Options", "OutOfBoundsError", "PtxError", "RaceError", "Run", "emulated_gpu",
]  # fmt: skip
