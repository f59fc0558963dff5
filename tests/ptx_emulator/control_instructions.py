"""Instructions that decide what runs next, or that pass values between the lanes of a warp."""

import numpy as np

from ptx_emulator import machine
from ptx_emulator.building import UnsupportedError, family
from ptx_emulator.ptx import PtxError


@family("bra")
def _bra(builder, instruction):
    target = builder.kernel.labels[instruction.operands[0]]
    guard = builder.guard(instruction)
    if guard is None:
        return lambda frame: target

    def run(frame):
        taken = guard(frame)
        if taken.all():
            return target
        if taken.any():
            raise machine.DivergedError(taken.copy())
        return None

    return run


@family("ret", "exit")
def _exit(builder, instruction):
    guard = builder.guard(instruction)
    if guard is not None:
        raise UnsupportedError(instruction)

    def leave(frame):
        if any(frame.pending["boxes"]):
            raise PtxError(f"a store to a tensor is not waited for: {instruction}")
        return machine.EXIT

    return leave


@family("trap", "brkpt")
def _trap(builder, instruction):
    def run(frame):
        raise PtxError(f"the kernel trapped: {instruction}")

    return run


@family("bar", "barrier")
def _barrier(builder, instruction):
    if "warp" in instruction.modifiers:
        return lambda frame: None
    if "sync" not in instruction.modifiers or instruction.guard:
        raise UnsupportedError(instruction)
    index, threads = ([int(o, 0) for o in instruction.operands] + [0])[:2]
    return lambda frame: machine.Barrier(index, threads)


@family("shfl")
def _shfl(builder, instruction):
    mode = instruction.modifiers[1]
    target, predicate = (*instruction.operands[0].split("|"), None)[:2]
    write = builder.writer(target, "b32", instruction)
    write_inside = builder.writer(predicate, "pred", instruction) if predicate else None
    values, by, clamp = (builder.reader(o, "u32") for o in instruction.operands[1:4])

    def run(frame):
        lane = frame.special["laneid"].astype(np.int64)
        limit, step = np.asarray(clamp(frame), np.int64), np.asarray(by(frame), np.int64)
        segment = limit >> 8 & 31
        last = (lane & segment) | (limit & 31 & ~segment)
        first = lane & segment
        if mode == "bfly":
            source, inside = lane ^ step, (lane ^ step) <= last
        elif mode == "up":
            source, inside = lane - step, lane - step >= last
        elif mode == "down":
            source, inside = lane + step, lane + step <= last
        else:
            source = first | (step & 31 & ~segment)
            inside = source <= last
        source = np.where(inside, source, lane)
        warps = np.broadcast_to(values(frame), frame.num_lanes).reshape(-1, machine.WARP)
        write(frame, np.take_along_axis(warps, source.reshape(warps.shape), axis=1).ravel())
        if write_inside:
            write_inside(frame, inside)

    return run
