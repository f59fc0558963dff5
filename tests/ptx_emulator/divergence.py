"""A branch that parts the lanes of a warp, where both ways only compute and soon meet.

Such are the special cases of a logarithm, for a number that is infinite or none. All lanes go both ways,
and each keeps what it found on its own.
"""

from typing import TYPE_CHECKING

import numpy as np

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
    """From a branch to where its ways meet; `taken` (warps, lanes) has the lanes that take it.

    Raises:
        PtxError: a way does more than compute, or does not meet the other.
    """
    kernel, code, counts = (
        frame.launch.program.kernel,
        frame.launch.program.code,
        frame.launch.counts,
    )
    branch = kernel.instructions[frame.pc]
    ways = [_way(kernel, kernel.labels[branch.operands[0]]), _way(kernel, frame.pc + 1)]
    meeting = next((pc for pc in ways[0] if pc in ways[1]), None)
    if meeting is None:
        raise PtxError(f"a branch divides a warp: {branch}")
    counts[frame.pc] += len(taken)
    banks = [array[:, frame.lanes] for array in frame.batch.banks.values()]
    before = [bank.copy() for bank in banks]
    ends = []
    for way, on_it in zip(ways, (taken, ~taken), strict=True):
        for bank, values in zip(banks, before, strict=True):
            bank[:] = values
        for pc in way[: way.index(meeting)]:
            counts[pc] += int(on_it.any(axis=1).sum())
            if kernel.instructions[pc].name != "bra":
                code[pc](frame)
        ends.append([bank.copy() for bank in banks])
    for bank, of_taken, of_others in zip(banks, *ends, strict=True):
        bank[:] = np.where(taken.ravel(), of_taken, of_others)
    frame.pc = meeting


def _way(kernel: Kernel, pc: int) -> list[int]:
    """What runs from `pc` on, up to the first instruction that does more than compute or jump."""
    way: list[int] = []
    for _ in range(LONGEST):
        way.append(pc)
        instruction = kernel.instructions[pc]
        jumps = instruction.name == "bra" and instruction.guard is None
        if not jumps and instruction.name not in COMPUTES:
            break
        pc = kernel.labels[instruction.operands[0]] if jumps else pc + 1
    return way
