"""A branch that parts the lanes of a warp, where both ways only compute and soon meet.

Such are the special cases of a logarithm, for a number that is infinite or none. All lanes go both ways,
and each keeps what it found on its own.
"""

from typing import TYPE_CHECKING

import numpy as np

from ptx_emulator import machine
from ptx_emulator.ptx import Kernel, PtxError

if TYPE_CHECKING:
    from ptx_emulator.machine import Frame

COMPUTES = {
    "mov", "cvt", "selp", "setp", "fma", "mad", "add", "sub", "mul", "neg", "abs", "min", "max",
    "ex2", "lg2", "rcp", "rsqrt", "sqrt", "div", "and", "or", "xor", "not", "shl", "shr", "bfe", "bfi",
    "lop3", "prmt",
}  # fmt: skip
LONGEST = 64  # instructions of a way


def go_both_ways(frame: "Frame", taken: np.ndarray) -> None:
    """From a branch, which the lanes `taken` (bool) take, to where the ways meet.

    Raises:
        PtxError: a way does more than compute, or does not meet the other.
    """
    kernel, code = frame.launch.program.kernel, frame.launch.program.code
    branch = kernel.instructions[frame.pc]
    ways = [_way(kernel, kernel.labels[branch.operands[0]]), _way(kernel, frame.pc + 1)]
    meeting = next((pc for pc in ways[0] if pc in ways[1]), None)
    if meeting is None:
        raise PtxError(f"a branch divides a warp: {branch}")
    banks = [array[:, frame.lanes] for array in frame.batch.banks.values()]
    before = [bank.copy() for bank in banks]
    ends = []
    for way in ways:
        for bank, values in zip(banks, before, strict=True):
            bank[:] = values
        for pc in way[: way.index(meeting)]:
            frame.launch.counts[pc] += frame.num_lanes // machine.WARP
            code[pc](frame)
        ends.append([bank.copy() for bank in banks])
    for bank, of_taken, of_others in zip(banks, *ends, strict=True):
        bank[:] = np.where(taken, of_taken, of_others)
    frame.pc = meeting


def _way(kernel: Kernel, pc: int) -> list[int]:
    """What runs from `pc` on, up to the first instruction that does more than compute."""
    way: list[int] = []
    for _ in range(LONGEST):
        instruction = kernel.instructions[pc]
        if instruction.name == "bra" and instruction.guard is None:
            pc = kernel.labels[instruction.operands[0]]
            continue
        way.append(pc)
        if instruction.name not in COMPUTES:
            break
        pc += 1
    return way
