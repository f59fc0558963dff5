"""Integers bit by bit, and reductions over the lanes of a warp."""

import numpy as np

from ptx_emulator import machine
from ptx_emulator.building import FAMILIES, UnsupportedError, elementwise, family

B32 = ["b32"] * 4


def _kinds(result, *operands):
    return lambda instruction: [result, *operands]


def _popc(instruction):
    return lambda a: np.bitwise_count(a).astype(np.uint32)


def _clz(instruction):
    width = int(instruction.modifiers[-1][1:])

    def count(a):
        a = np.asarray(a).astype(np.uint64)
        leading = np.full(a.shape, width, np.uint32)
        for bit in range(width):
            leading = np.where(a >> np.uint64(bit) & np.uint64(1), width - 1 - bit, leading)
        return leading.astype(np.uint32)

    return count


def _brev(instruction):
    width = int(instruction.modifiers[-1][1:])

    def reverse(a):
        a = np.asarray(a).astype(np.uint64)
        bits = [
            (a >> np.uint64(i) & np.uint64(1)) << np.uint64(width - 1 - i) for i in range(width)
        ]
        return np.bitwise_or.reduce(bits).astype(f"u{width // 8}")

    return reverse


def _bfi(instruction):
    """The low `length` bits of a in b, from `position` on."""
    width = int(instruction.modifiers[-1][1:])

    def insert(a, b, position, length):
        position, length = (
            np.minimum(n & 0xFF, width).astype(np.uint64) for n in (position, length)
        )
        full = np.uint64(2**width - 1)
        # A shift by 64 leaves a number as it is.
        ones = np.where(length == width, full, (np.uint64(1) << length % 64) - np.uint64(1))
        mask = np.where(position == width, 0, ones << position % 64).astype(np.uint64) & full
        a, b = np.asarray(a).astype(np.uint64), np.asarray(b).astype(np.uint64)
        return (a << position % 64 & mask | b & ~mask & full).astype(f"u{width // 8}")

    return insert


def _shf(instruction):
    """The pair (b, a) shifted by c: its upper half, to the left, or its lower half, to the right."""
    direction, mode, _ = instruction.modifiers

    def funnel(a, b, c):
        c = (c & 31 if mode == "wrap" else np.minimum(c, 32)).astype(np.uint64)
        pair = np.asarray(b).astype(np.uint64) << np.uint64(32) | np.asarray(a).astype(np.uint64)
        shifted = pair << c >> np.uint64(32) if direction == "l" else pair >> c
        return shifted.astype(np.uint32)  # which cuts off

    return funnel


def _prmt(instruction):
    """Bytes of (b, a) that the four low nibbles of c choose; only their sign where bit 3 is set."""
    if instruction.modifiers != ("b32",):
        return None

    def permute(a, b, c):
        pair = np.asarray(b).astype(np.uint64) << np.uint64(32) | np.asarray(a).astype(np.uint64)
        total = np.uint64(0)
        for i in range(4):
            nibble = np.asarray(c).astype(np.uint64) >> np.uint64(4 * i)
            byte = pair >> (nibble & np.uint64(7)) * np.uint64(8) & np.uint64(0xFF)
            sign = np.where(byte & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
            total = total | np.where(nibble & np.uint64(8), sign, byte) << np.uint64(8 * i)
        return np.asarray(total).astype(np.uint32)

    return permute


@family("lop3")
def _lop3(builder, instruction):
    """Any function of three bits, given by its values for a = 0xF0, b = 0xCC, c = 0xAA."""
    if instruction.modifiers != ("b32",):
        raise UnsupportedError(instruction)
    target, *sources, table = instruction.operands
    reads = [builder.reader(source, "b32") for source in sources]
    write, values = builder.writer(target, "b32", instruction), int(table, 0)

    def run(frame):
        bits = [np.asarray(read(frame)) for read in reads]
        total = np.uint32(0)
        for term in range(8):
            if values >> term & 1:
                chosen = [b if term >> 2 - i & 1 else ~b for i, b in enumerate(bits)]
                total = total | chosen[0] & chosen[1] & chosen[2]
        write(frame, total)

    return run


FAMILIES |= {
    "popc": elementwise(_popc, lambda i: ["u32", i.modifiers[-1]]),
    "clz": elementwise(_clz, lambda i: ["u32", i.modifiers[-1]]),
    "brev": elementwise(_brev, lambda i: [i.modifiers[-1]] * 2),
    "bfi": elementwise(_bfi, lambda i: [i.modifiers[-1]] * 3 + ["u32", "u32"]),
    "shf": elementwise(_shf, _kinds(*B32)),
    "prmt": elementwise(_prmt, _kinds(*B32)),
}


def _by_warp(frame, values):
    return np.broadcast_to(values, frame.num_lanes).reshape(-1, machine.WARP)


def _whole_warps(builder, instruction, mask):
    """frame -> None, or an error where lanes are left out."""
    if instruction.guard:
        raise UnsupportedError(instruction)
    lanes = builder.reader(mask, "u32")

    def check(frame):
        if (np.asarray(lanes(frame)) != 0xFFFF_FFFF).any():
            raise UnsupportedError(instruction)

    return check


@family("redux")
def _redux(builder, instruction):
    _, operation, kind = instruction.modifiers
    target, source, mask = instruction.operands
    check = _whole_warps(builder, instruction, mask)
    functions = {
        "add": np.add, "min": np.minimum, "max": np.maximum,
        "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    }  # fmt: skip
    if operation not in functions or kind[0] == "f":
        raise UnsupportedError(instruction)
    read, write = builder.reader(source, kind), builder.writer(target, kind, instruction)

    def run(frame):
        check(frame)
        values = _by_warp(frame, read(frame))
        total = functions[operation].reduce(values, axis=1, dtype=values.dtype)
        write(frame, np.repeat(total, machine.WARP))

    return run


@family("vote")
def _vote(builder, instruction):
    _, mode, kind = instruction.modifiers
    target, source, mask = instruction.operands
    check = _whole_warps(builder, instruction, mask)
    read, write = builder.reader(source, "pred"), builder.writer(target, kind, instruction)
    modes = {
        "all": lambda lanes: lanes.all(axis=1),
        "any": lambda lanes: lanes.any(axis=1),
        "uni": lambda lanes: (lanes == lanes[:, :1]).all(axis=1),
        "ballot": lambda lanes: (lanes << np.arange(machine.WARP, dtype=np.uint64)).sum(axis=1),
    }

    def run(frame):
        check(frame)
        result = modes[mode](_by_warp(frame, read(frame)))
        write(frame, np.repeat(result, machine.WARP))

    return run
