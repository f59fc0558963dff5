"""Loads, stores, atomics, asynchronous copies, and matrices between shared memory and registers."""

from dataclasses import dataclass

import numpy as np

from ptx_emulator import machine, tensor_maps
from ptx_emulator.arithmetic import dtype_of
from ptx_emulator.building import UnsupportedError, family, kind_of
from ptx_emulator.ptx import Instruction, PtxError

SPACES = ("global", "shared", "param", "local", "const")


def _shape(instruction: Instruction) -> tuple[str, str, int]:
    """Space, kind of an item, number of items."""
    space = next(
        (m.split("::")[0] for m in instruction.modifiers if m.split("::")[0] in SPACES), ""
    )
    count = next((int(m[1:]) for m in instruction.modifiers if m in ("v2", "v4", "v8")), 1)
    kind = kind_of(instruction.modifiers[-1])
    if space not in ("global", "shared", "param") or kind[0] not in "usf":
        raise UnsupportedError(instruction)
    return space, kind, count


def _items(operand) -> list[str]:
    return list(operand) if isinstance(operand, tuple) else [operand]


def _mask(frame, guard):
    """None where all lanes take part."""
    if guard is None:
        return None
    mask = np.broadcast_to(guard(frame), frame.num_lanes)
    return None if mask.all() else mask


@family("ld")
def _ld(builder, instruction):
    space, kind, count = _shape(instruction)
    targets, address = _items(instruction.operands[0]), instruction.operands[1]
    if space == "param":
        name = address.base
        write = builder.writer(targets[0], kind, instruction)
        dtype = dtype_of(kind)

        def load_parameter(frame):
            value = frame.launch.arguments[name]
            if value.itemsize != dtype.itemsize:
                write(frame, value)
                return
            write(frame, value.view(dtype))

        return load_parameter
    size = int(kind[1:]) // 8
    signed = np.dtype(f"i{size}") if kind[0] == "s" else None
    guard = builder.guard(instruction)
    writes = [
        builder.writer(t, kind if kind[0] == "s" else f"u{8 * size}", instruction) for t in targets
    ]
    addresses = builder.address(address, "u64" if space == "global" else "u32")

    def load(frame):
        mask = _mask(frame, guard)
        where = addresses(frame)
        if space == "global":
            values = frame.memory.load(frame.program, where, mask, size, count, instruction)
        else:
            offsets = frame.shared.locate(frame, where, mask, size * count, instruction)
            values = frame.shared.load(frame, offsets, mask, size, count, instruction)
        if signed is not None:
            values = values.view(signed)
        if count == 1:
            writes[0](frame, values)
            return
        for i, write in enumerate(writes):
            write(frame, values[:, i])

    return load


@family("st")
def _st(builder, instruction):
    space, kind, count = _shape(instruction)
    size = int(kind[1:]) // 8
    guard = builder.guard(instruction)
    reads = [builder.reader(s, f"u{8 * size}") for s in _items(instruction.operands[1])]
    addresses = builder.address(instruction.operands[0], "u64" if space == "global" else "u32")

    def store(frame):
        mask = _mask(frame, guard)
        where = addresses(frame)
        columns = [np.broadcast_to(read(frame), frame.num_lanes) for read in reads]
        values = columns[0] if count == 1 else np.stack(columns, axis=1)
        if space == "global":
            frame.memory.store(frame.program, where, mask, size, count, values, instruction)
        else:
            offsets = frame.shared.locate(frame, where, mask, size * count, instruction)
            frame.shared.store(frame, offsets, mask, size, values, instruction)

    return store


@family("atom", "red")
def _atomic(builder, instruction):
    """One lane after the other; only in global memory."""
    operation, kind = instruction.modifiers[-2], instruction.modifiers[-1]
    functions = {
        "add": np.add, "min": np.fmin, "max": np.fmax, "and": np.bitwise_and, "or": np.bitwise_or,
        "xor": np.bitwise_xor, "exch": lambda old, new: new,
    }  # fmt: skip
    operation = next((m for m in instruction.modifiers if m in functions), None)
    if operation is None or "global" not in instruction.modifiers or kind[0] not in "usfb":
        raise UnsupportedError(instruction)
    kind = kind_of(kind)
    operands = instruction.operands if instruction.name == "atom" else ["_", *instruction.operands]
    size, dtype = int(kind[1:]) // 8, dtype_of(kind)
    write = builder.writer(operands[0], kind, instruction)
    addresses, read = builder.address(operands[1], "u64"), builder.reader(operands[2], kind)
    guard, function = builder.guard(instruction), functions[operation]

    def run(frame):
        mask = _mask(frame, guard)
        where = addresses(frame)
        values = np.broadcast_to(read(frame), frame.num_lanes)
        old = np.zeros(frame.num_lanes, dtype)
        for lane in range(frame.num_lanes) if mask is None else np.flatnonzero(mask):
            at = frame.program[lane : lane + 1], where[lane : lane + 1], None, size, 1
            before = frame.memory.load(*at, instruction).view(dtype)
            after = np.asarray(function(before, values[lane]), dtype).view(f"u{size}")
            frame.memory.store(*at, after, instruction)
            old[lane] = before[0]
        write(frame, old)

    return run


@dataclass
class Copy:
    """An asynchronous copy of each lane: from where, to where, and which lanes read or get zeros."""

    instruction: Instruction
    size: int
    source: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    reads: np.ndarray

    def of(self, lanes) -> "Copy":
        """Of some lanes."""
        arrays = (self.source, self.target, self.mask, self.reads)
        return Copy(self.instruction, self.size, *(array[lanes] for array in arrays))

    def finish(self, frame) -> None:
        """Read and write."""
        item, count = min(self.size, 4), max(self.size // 4, 1)
        values = frame.memory.load(
            frame.program, self.source, self.reads, item, count, self.instruction
        )
        reads = self.reads[:, None] if count > 1 else self.reads
        values = np.where(reads, values, 0).astype(f"u{item}")
        shared = frame.shared
        shared.store(frame, self.target, self.mask, item, values, self.instruction, races=False)
        if shared.races is not None:
            who = frame.warp, frame.batch.epoch
            shared.races.arrive(*who, self.target, self.mask, self.size, self.instruction)


@family("cp")
def _cp(builder, instruction):
    if instruction.modifiers[:1] != ("async",):
        raise UnsupportedError(instruction)
    is_bulk = "bulk" in instruction.modifiers
    pending = "boxes" if is_bulk else "copies"
    if "commit_group" in instruction.modifiers:
        return lambda frame: frame.commit(pending)
    if "wait_group" in instruction.modifiers:
        number = int(instruction.operands[0], 0)
        return lambda frame: frame.wait(pending, number)
    if is_bulk:
        if "tensor" not in instruction.modifiers:
            raise UnsupportedError(instruction)
        return tensor_maps.box_copy(builder, instruction)
    if "wait_all" in instruction.modifiers:
        return lambda frame: (frame.commit("copies"), frame.wait("copies", 0))[1]
    size = int(instruction.operands[2], 0)
    targets = builder.address(instruction.operands[0], "u32")
    sources = builder.address(instruction.operands[1], "u64")
    given = (
        builder.reader(instruction.operands[3], "u32") if len(instruction.operands) > 3 else None
    )
    guard = builder.guard(instruction)

    def copy(frame):
        mask = np.ones(frame.num_lanes, bool) if guard is None else guard(frame).copy()
        read_bytes = np.broadcast_to(given(frame) if given else np.uint32(size), frame.num_lanes)
        if ((read_bytes != 0) & (read_bytes != size) & mask).any():
            raise PtxError(f"a copy of part of its bytes is not supported: {instruction}")
        target = frame.shared.locate(frame, targets(frame), mask, size, instruction)
        source, reads = sources(frame).copy(), mask & (read_bytes != 0)
        width = min(size, 4), max(size // 4, 1)
        frame.memory.load(frame.program, source, reads, *width, instruction)  # checks bounds
        if frame.shared.races is not None:
            late = not frame.launch.options.early_copies
            who = frame.warp, frame.batch.epoch
            frame.shared.races.copy(
                *who, target, mask, size, instruction, by_proxy=False, late=late
            )
        frame.add_pending("copies", Copy(instruction, size, source, target, mask, reads))

    return copy


def _matrix_rows(frame, addresses, num, instruction):
    """Byte offsets (warps, num, 8) of the rows that lanes 0 to 8 num - 1 point to."""
    lanes = np.broadcast_to(frame.special["laneid"] < 8 * num, frame.num_lanes)
    offsets = frame.shared.locate(frame, addresses, None if num == 4 else lanes, 16, instruction)
    return offsets.reshape(-1, machine.WARP)[:, : 8 * num].reshape(-1, num, 8)


def _touch(frame, rows, instruction, touch, *values):
    """Tell the checker of races that whole `rows` are read or written."""
    owners = np.repeat(frame.warp[:: machine.WARP], rows[0].size)
    touch(owners, frame.batch.epoch, rows.ravel(), None, 16, instruction, *values)


def _matrix_shape(instruction):
    num = next((int(m[1:]) for m in instruction.modifiers if m in ("x1", "x2", "x4")), 0)
    if not num or "m8n8" not in instruction.modifiers or instruction.guard:
        raise UnsupportedError(instruction)
    return num, "trans" in instruction.modifiers


@family("ldmatrix")
def _ldmatrix(builder, instruction):
    num, transposed = _matrix_shape(instruction)
    writes = [builder.writer(t, "b32", instruction) for t in _items(instruction.operands[0])]
    addresses = builder.address(instruction.operands[1], "u32")

    def load(frame):
        rows = _matrix_rows(frame, addresses(frame), num, instruction)
        if frame.shared.races is not None:
            _touch(frame, rows, instruction, frame.shared.races.read)
        halves = frame.shared.raw(2, 8)[rows // 16]  # (warps, num, 8, 8)
        if transposed:
            halves = np.ascontiguousarray(halves.swapaxes(2, 3))
        registers = halves.view(np.uint32).reshape(len(rows), num, machine.WARP)
        for i, write in enumerate(writes):
            write(frame, registers[:, i].ravel())

    return load


@family("stmatrix")
def _stmatrix(builder, instruction):
    num, transposed = _matrix_shape(instruction)
    reads = [builder.reader(s, "b32") for s in _items(instruction.operands[1])]
    addresses = builder.address(instruction.operands[0], "u32")

    def store(frame):
        rows = _matrix_rows(frame, addresses(frame), num, instruction)
        registers = np.stack([read(frame).reshape(-1, machine.WARP) for read in reads], axis=1)
        halves = registers.view(np.uint16).reshape(len(rows), num, 8, 8)
        if transposed:
            halves = halves.swapaxes(2, 3)
        if frame.shared.races is not None:
            _touch(
                frame, rows, instruction, frame.shared.races.write, frame.shared.raw(2, 1), halves
            )
        frame.shared.raw(2, 8)[rows // 16] = halves

    return store
