"""Tensor maps and the copies of boxes that they describe (TMA).

The 128 bytes of a map are opaque to a kernel. Here they hold the numbers that `tensormap.replace` takes, in
an order of this module's own; a map that the host makes is written likewise.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ptx_emulator.barrier_instructions import mbarrier_at
from ptx_emulator.building import UnsupportedError, family
from ptx_emulator.ptx import Instruction, PtxError

SIZE = 128  # bytes
FIELDS = np.dtype(
    [
        ("global_address", "u8"), ("global_stride", "u8", 4), ("rank", "u4"), ("elemtype", "u4"),
        ("interleave_layout", "u4"), ("swizzle_mode", "u4"), ("fill_mode", "u4"), ("box_dim", "u4", 5),
        ("global_dim", "u4", 5), ("element_stride", "u4", 5),
    ]
)  # fmt: skip
# Bytes of an element, by the number of its type; the two of tf32 round, and are not supported.
ELEMENTS = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 5: 8, 6: 2, 7: 4, 8: 4, 9: 8, 10: 2}
NANS = {6: 0x7FFF, 7: 0x7FFF_FFFF, 10: 0x7FFF}
SWIZZLES = {0: 16, 1: 32, 2: 64, 3: 128}  # bytes within which pieces of 16 change places
LONGEST_BOX = 256
MISALIGNED = "must be a multiple of 16"


@dataclass(frozen=True)
class TensorMap:
    """A map as the hardware takes it: the innermost dimension comes first.

    Raises:
        PtxError: the hardware would refuse it.
    """

    address: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]  # bytes; of the innermost, the size of an element
    box: tuple[int, ...]
    swizzle: int
    fill: int  # of what lies outside, as bits
    element: int  # bytes

    @classmethod
    def decoded(cls, data: np.ndarray) -> "TensorMap":
        """From its bytes."""
        values = data.view(FIELDS)[0]
        rank, kind = int(values["rank"]) + 1, int(values["elemtype"])
        if kind not in ELEMENTS or values["interleave_layout"] or not 1 <= rank <= 5:
            raise PtxError(f"a tensor map of rank {rank} and element type {kind} is not supported")
        if (values["element_stride"][:rank] != 1).any():
            raise PtxError("a tensor map that skips elements is not supported")
        found = cls(
            int(values["global_address"]),
            tuple(int(n) for n in values["global_dim"][:rank]),
            (ELEMENTS[kind], *(int(n) for n in values["global_stride"][: rank - 1])),
            tuple(int(n) for n in values["box_dim"][:rank]),
            SWIZZLES[int(values["swizzle_mode"])],
            NANS[kind] if values["fill_mode"] else 0,
            ELEMENTS[kind],
        )
        found.check()
        return found

    def check(self) -> None:
        """What the hardware asks of a map."""
        inner = self.box[0] * self.element
        if self.address % 16:
            raise PtxError(f"the address of a tensor map, {self.address:#x}, {MISALIGNED}")
        for stride in self.strides[1:]:
            if stride % 16:
                raise PtxError(f"a stride of a tensor map, {stride} bytes, {MISALIGNED}")
        if inner % 16:
            raise PtxError(f"the rows of a box, {inner} bytes, {MISALIGNED}")
        if not all(1 <= size <= LONGEST_BOX for size in self.box):
            raise PtxError(f"a box of {self.box}: at most {LONGEST_BOX} along each dimension")
        if self.swizzle > 16 and inner > self.swizzle:
            raise PtxError(f"rows of {inner} bytes in a box that is swizzled in {self.swizzle}")

    @property
    def num_bytes(self) -> int:
        """Of a box in shared memory."""
        return int(np.prod(self.box)) * self.element

    def global_addresses(self, corner: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Of each element of the box at `corner`, and which of them lie in the tensor."""
        addresses, inside = np.int64(self.address), np.True_
        for start, size, stride, length in zip(
            corner[::-1], self.sizes[::-1], self.strides[::-1], self.box[::-1], strict=True
        ):
            at = start + np.arange(length, dtype=np.int64)
            addresses = addresses[..., None] + at * stride
            inside = inside[..., None] & (at >= 0) & (at < size)
        return addresses.ravel().astype(np.uint64), inside.ravel()

    def shared_offsets(self, start: int) -> np.ndarray:
        """Byte of each element of a box at byte `start` of a program's shared memory."""
        linear = start + np.arange(int(np.prod(self.box))) * self.element
        return linear ^ ((linear >> 7 & self.swizzle // 16 - 1) << 4)


def encoded(values: dict[str, Any]) -> np.ndarray:
    """The bytes of a map with these fields."""
    data = np.zeros(1, FIELDS)
    for name, value in values.items():
        value = np.atleast_1d(value)
        if FIELDS[name].shape:
            data[name][0, : len(value)] = value
        else:
            data[name] = value
    return np.frombuffer(data.tobytes().ljust(SIZE, b"\0"), np.uint8).copy()


@family("tensormap")
def _tensormap(builder, instruction):
    if instruction.modifiers[0] == "cp_fenceproxy":
        return _publish(builder, instruction)
    if (
        instruction.modifiers[:2] != ("replace", "tile")
        or "shared::cta" not in instruction.modifiers
    ):
        raise UnsupportedError(instruction)
    name = instruction.modifiers[2]
    address, *index, value = instruction.operands
    scalar = FIELDS[name].base
    offset = FIELDS.fields[name][1] + (int(index[0], 0) if index else 0) * scalar.itemsize
    where, kind = builder.address(address, "u64"), f"u{8 * scalar.itemsize}"
    read, guard = builder.reader(value, kind), builder.guard(instruction)

    def replace(frame):
        mask = np.ones(frame.num_lanes, bool) if guard is None else guard(frame)
        values = np.broadcast_to(read(frame), frame.num_lanes)
        at = frame.shared.locate(
            frame, where(frame) + np.uint64(offset), mask, scalar.itemsize, instruction
        )
        frame.shared.store(frame, at, mask, scalar.itemsize, values, instruction)

    return replace


def _publish(builder, instruction):
    """Copy a map from shared to global memory, by one lane of each warp."""
    target, source = (builder.address(operand, "u64") for operand in instruction.operands[:2])
    guard = builder.guard(instruction)

    def publish(frame):
        mask = frame.special["laneid"] == 0
        if guard is not None:
            mask = mask & guard(frame)
        for word in range(0, SIZE, 8):
            at = frame.shared.locate(frame, source(frame) + np.uint64(word), mask, 8, instruction)
            values = frame.shared.load(frame, at, mask, 8, 1, instruction)
            where = target(frame) + np.uint64(word)
            frame.memory.store(frame.program, where, mask, 8, 1, values, instruction)

    return publish


@dataclass
class BoxCopy:
    """One box on its way, from global memory or to it."""

    frame: Any  # of the thread that issued it
    map: TensorMap
    corner: list[int]
    program: int
    warp: int
    base: int  # byte at which the program's shared memory begins
    start: int  # byte of the box in it
    instruction: Instruction

    def __post_init__(self) -> None:
        self.num_bytes = self.map.num_bytes
        self.shared, self.memory = self.frame.shared, self.frame.memory
        # Rows are swizzled by the bits of their address: the unswizzled ones need 128 bytes, too.
        if self.start % 128 or self.start + self.num_bytes > self.shared.size:
            raise PtxError(
                f"a box of {self.num_bytes} bytes at byte {self.start} of {self.shared.size}: "
                f"{self.instruction}"
            )
        self.addresses, self.inside = self.map.global_addresses(self.corner)
        self.programs = np.full(len(self.addresses), self.program)
        self.offsets = self.base + self.map.shared_offsets(self.start)

    def read_global(self) -> np.ndarray:
        """Elements of the box, filled where they lie outside the tensor."""
        size = self.map.element
        values = self.memory.load(
            self.programs, self.addresses, self.inside, size, 1, self.instruction
        )
        return np.where(self.inside, values, self.map.fill)

    def issue_load(self, early: bool) -> None:
        """Check bounds and races, as of now."""
        self.read_global()
        if self.shared.races is not None:
            owners = np.full(len(self.offsets), self.warp)
            self.shared.races.copy(
                owners, self.frame.batch.epoch, self.offsets, None, self.map.element,
                self.instruction, by_proxy=True, late=not early,
            )  # fmt: skip

    def arrive(self) -> None:
        """Write to shared memory what was loaded."""
        size = self.map.element
        self.shared.raw(size, 1)[self.offsets // size] = self.read_global()
        if self.shared.races is not None:
            self.shared.races.arrive_by_barrier(self.offsets, size)

    def store(self, epoch: int) -> None:
        """Read shared memory and write the tensor."""
        size = self.map.element
        if self.shared.races is not None:
            owners = np.full(len(self.offsets), self.warp)
            self.shared.races.read(
                owners, epoch, self.offsets, None, size, self.instruction, by_proxy=True
            )
        values = self.shared.raw(size, 1)[self.offsets // size]
        self.memory.store(
            self.programs, self.addresses, self.inside, size, 1, values, self.instruction
        )


@dataclass
class Stores:
    """Boxes that the lanes of a frame store: `box` is the number of a lane's, or -1."""

    boxes: list[BoxCopy]
    box: np.ndarray

    def of(self, lanes) -> "Stores":
        """Of some lanes."""
        return Stores(self.boxes, self.box[lanes])

    def finish(self, frame) -> None:
        """Store them."""
        for i in self.box[self.box >= 0]:
            self.boxes[i].store(frame.batch.epoch)


def box_copy(builder, instruction):
    """cp.async.bulk.tensor: a load that a barrier waits for, or a store of a group."""
    modifiers = [m for m in instruction.modifiers if m not in ("async", "bulk", "tensor", "tile")]
    rank, *modifiers = modifiers
    load = modifiers[1:2] == ["global"] and modifiers[2:] == ["mbarrier::complete_tx::bytes"]
    store = modifiers == ["global", "shared::cta", "bulk_group"]
    if not ((load and modifiers[0] in ("shared::cta", "shared::cluster")) or store):
        raise UnsupportedError(instruction)
    if len(instruction.operands) != 2 + load:
        raise UnsupportedError(instruction)
    shared, box = instruction.operands[:2] if load else instruction.operands[1::-1]
    if len(box.coordinates) != int(rank[:-1]):
        raise UnsupportedError(instruction)
    of_map, where = builder.address(box, "u64"), builder.address(shared, "u32")
    corners = [builder.reader(name, "s32") for name in box.coordinates]
    barriers = builder.address(instruction.operands[2], "u32") if load else None
    guard = builder.guard(instruction)

    def copies(frame, mask):
        starts = where(frame)
        columns = [np.broadcast_to(corner(frame), frame.num_lanes) for corner in corners]
        for lane in np.flatnonzero(mask):
            program, maps = frame.program[lane : lane + 1], of_map(frame)[lane : lane + 1]
            words = maps + np.arange(0, SIZE, 8, dtype=np.uint64)
            data = frame.memory.load(np.repeat(program, len(words)), words, None, 8, 1, instruction)
            yield lane, BoxCopy(
                frame, TensorMap.decoded(data.view(np.uint8)[: FIELDS.itemsize]),
                [int(column[lane]) for column in columns], int(program[0]), int(frame.warp[lane]),
                int(frame.shared_base[lane]), int(starts[lane]), instruction,
            )  # fmt: skip

    def run(frame):
        mask = np.ones(frame.num_lanes, bool) if guard is None else guard(frame)
        early = frame.launch.options.early_copies
        if not load:
            box, boxes = np.full(frame.num_lanes, -1), []
            for lane, one in copies(frame, mask):
                box[lane] = len(boxes)
                boxes.append(one)
            frame.add_pending("boxes", Stores(boxes, box))
            return
        bytes_at = frame.shared.locate(frame, barriers(frame), mask, 8, instruction)
        for lane, one in copies(frame, mask):
            one.issue_load(early)
            frame.shared.num_events += 1
            mbarrier_at(frame, int(bytes_at[lane]), instruction).send(one, early)

    return run
