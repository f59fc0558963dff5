"""mbarrier, fence and elect."""

import numpy as np

from ptx_emulator import machine
from ptx_emulator.barriers import Mbarrier
from ptx_emulator.building import UnsupportedError, family
from ptx_emulator.ptx import PtxError

ACTIONS = ("init", "inval", "arrive", "try_wait", "test_wait")


def mbarrier_at(frame, byte: int, instruction) -> Mbarrier:
    """The barrier at a byte of `SharedMemory.locate`."""
    barrier = frame.shared.barriers.get(byte)
    if barrier is None:
        raise PtxError(f"no barrier at byte {byte % frame.shared.stride}: {instruction}")
    return barrier


@family("mbarrier")
def _mbarrier(builder, instruction):
    action, *modifiers = instruction.modifiers
    spaces = [m for m in modifiers if m.startswith("shared")]
    if action not in ACTIONS or not spaces or spaces[0].endswith("cluster"):
        raise UnsupportedError(instruction)
    if action.endswith("wait"):
        return _wait(builder, instruction)
    operands = instruction.operands
    if action == "arrive":
        if operands[0] != "_" or set(modifiers) & {"noComplete", "drop"}:
            raise UnsupportedError(instruction)
        operands = operands[1:]
    where = builder.address(operands[0], "u32")
    number = builder.reader(operands[1], "u32") if len(operands) > 1 else None
    expects = "expect_tx" in modifiers
    guard = builder.guard(instruction)

    def act(frame):
        mask = np.ones(frame.num_lanes, bool) if guard is None else guard(frame)
        bytes_at = frame.shared.locate(frame, where(frame), mask, 8, instruction)
        numbers = np.broadcast_to(number(frame) if number else 1, frame.num_lanes)
        for lane in np.flatnonzero(mask):
            byte, value = int(bytes_at[lane]), int(numbers[lane])
            frame.shared.num_events += 1
            if action == "init":
                frame.shared.barriers[byte] = Mbarrier(value)
                continue
            barrier = mbarrier_at(frame, byte, instruction)
            if action == "inval":
                if barrier.transfers:
                    raise PtxError(f"{barrier}, and is forgotten: {instruction}")
                del frame.shared.barriers[byte]
            elif expects:
                barrier.arrive(1, value, instruction)
            else:
                barrier.arrive(value, 0, instruction)

    return act


def _wait(builder, instruction):
    if "parity" not in instruction.modifiers or instruction.guard:
        raise UnsupportedError(instruction)
    target, address, parity = instruction.operands[:3]
    write = builder.writer(target, "pred", instruction)
    where, parities = builder.address(address, "u32"), builder.reader(parity, "u32")
    blocks = instruction.modifiers[0] == "try_wait"

    def wait(frame):
        bytes_at = frame.shared.locate(frame, where(frame), None, 8, instruction)
        asked = 2 * bytes_at + (np.asarray(parities(frame), np.int64) & 1)
        different, of_lane = np.unique(asked, return_inverse=True)
        over = []
        for one in map(int, different):
            barrier = mbarrier_at(frame, one // 2, instruction)
            over.append(barrier.is_over(one % 2))
            if blocks and not over[-1]:
                return machine.Retry(frame.shared.num_events, barrier)
        write(frame, np.array(over)[of_lane.reshape(-1)])
        return None

    return wait


@family("fence")
def _fence(builder, instruction):
    """Memory is in order as it is; but for the asynchronous proxy, which the checker of races follows."""
    if instruction.modifiers[:2] != ("proxy", "async") or instruction.guard:
        return lambda frame: None

    def fence(frame):
        if frame.shared.races is None:
            return
        for base in np.unique(frame.shared_base):
            first, last = int(base) // 2, int(base + frame.shared.stride) // 2
            warps = range(frame.first_warp, frame.last_warp)
            frame.shared.races.fence(warps, frame.batch.epoch, first, last)

    return fence


@family("elect")
def _elect(builder, instruction):
    """The first lane of a full mask."""
    lane, predicate = instruction.operands[0].split("|")
    if int(instruction.operands[1], 0) & 0xFFFF_FFFF != 0xFFFF_FFFF:
        raise UnsupportedError(instruction)
    write = builder.writer(predicate, "pred", instruction)
    write_lane = builder.writer(lane, "b32", instruction)

    def elect(frame):
        write_lane(frame, np.uint32(0))
        write(frame, frame.special["laneid"] == 0)

    return elect
