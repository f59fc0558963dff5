"""Matrix products: mma.sync, and wgmma with operands in swizzled shared memory.

Products of operands are exact, their sum and the accumulator are added up in float64, and the result is
rounded to float32 once. `Options.truncate` adds up as tensor cores are known to: in blocks, each addend cut
off at the same bit below the largest, the sum cut off to float32.
"""

from dataclasses import dataclass, replace

import numpy as np

from ptx_emulator import machine
from ptx_emulator.arithmetic import bf16_values, tf32_values
from ptx_emulator.building import UnsupportedError, family
from ptx_emulator.ptx import Instruction, PtxError

ITEM = {"f16": 2, "bf16": 2, "tf32": 4}  # bytes


def _numbers(bits: np.ndarray, kind: str) -> np.ndarray:
    """Operand bits (last axis of 16 or 32 bits) as float64."""
    if kind == "f16":
        return bits.view(np.float16).astype(np.float64)
    return (bf16_values(bits) if kind == "bf16" else tf32_values(bits)).astype(np.float64)


def _left(registers: np.ndarray, kind: str) -> np.ndarray:
    """A of one k-step, (16, 16) or (16, 8), from (num, warps, 32) registers with num 2 or 4.

    Register i of lane 4 g + t: row g + 8 (i % 2); 16-bit columns 2 t, 2 t + 1 (+ 8 for i >= 2), 32-bit
    column t (+ 4 for i >= 2).
    """
    num, warps, _ = registers.shape
    per = 4 // ITEM[kind]
    items = registers.view(np.uint16) if per == 2 else registers
    items = _numbers(items, kind).reshape(num // 2, 2, warps, 8, 4, per)
    return items.transpose(2, 1, 3, 0, 4, 5).reshape(warps, 16, num // 2 * 4 * per)


def _right(registers: np.ndarray, kind: str) -> np.ndarray:
    """B of one k-step, (16, 8) or (8, 8): register i of lane 4 g + t is column g, rows as A's columns."""
    num, warps, _ = registers.shape
    per = 4 // ITEM[kind]
    items = registers.view(np.uint16) if per == 2 else registers
    items = _numbers(items, kind).reshape(num, warps, 8, 4, per)
    return items.transpose(1, 0, 3, 4, 2).reshape(warps, num * 4 * per, 8)


def _accumulator(registers: np.ndarray) -> np.ndarray:
    """(warps, 16, columns) from (columns / 2, warps, 32): four registers for each eight columns."""
    num, warps, _ = registers.shape
    items = registers.reshape(num // 4, 2, 2, warps, 8, 4)  # block, lower half, odd column
    return items.transpose(3, 1, 4, 0, 5, 2).reshape(warps, 16, num * 2)


def _to_registers(matrix: np.ndarray) -> np.ndarray:
    """The inverse of `_accumulator`."""
    warps, _, columns = matrix.shape
    items = matrix.reshape(warps, 2, 8, columns // 8, 4, 2)
    return items.transpose(3, 1, 5, 0, 2, 4).reshape(columns // 2, warps, machine.WARP)


# Of k by operand size, and bits below those of float32 that are kept, by architecture: as measured for
# A100 and H100 in the literature on tensor cores, not by NVIDIA's documentation.
BLOCKS = {8: ({2: 8, 4: 4}, 1), 9: ({2: 16, 4: 8}, 2)}


def _add_up(frame, left, right, before, kind):
    """left (n, rows, k) times right (n, k, columns), plus `before`, in float32."""
    options = frame.launch.options
    if not options.truncate:
        return (left @ right + before).astype(np.float32)
    sizes, extra = BLOCKS[frame.launch.capability // 10]
    step, total = sizes[ITEM[kind]], np.asarray(before, np.float64)
    for k in range(0, left.shape[2], step):
        products = left[:, :, None, k : k + step] * right[:, k : k + step].swapaxes(1, 2)[:, None]
        largest = np.maximum(np.abs(products).max(axis=3), np.abs(total))
        unit = np.ldexp(1.0, np.frexp(largest)[1] - 24 - extra)
        total = (np.trunc(products / unit[..., None]).sum(axis=3) + np.trunc(total / unit)) * unit
        single = total.astype(np.float32)
        over = np.abs(single) > np.abs(total)
        total = np.where(over, np.nextafter(single, np.float32(0)), single).astype(np.float64)
    return total.astype(np.float32)


@family("mma")
def _mma(builder, instruction):
    modifiers = instruction.modifiers
    if (
        modifiers[:2] != ("sync", "aligned")
        or modifiers[3:5] != ("row", "col")
        or instruction.guard
    ):
        raise UnsupportedError(instruction)
    shape, (result, left, right, addend) = modifiers[2], modifiers[5:9]
    known = shape in ("m16n8k16", "m16n8k8", "m16n8k4") and left in ITEM
    if not known or left != right or (result, addend) != ("f32", "f32"):
        raise UnsupportedError(instruction)
    d, a, b, c = instruction.operands
    write = builder.scatterer(d)
    read_left, read_right, read_addend = (builder.gatherer(names) for names in (a, b, c))

    def product(frame):
        factors = _left(read_left(frame), left), _right(read_right(frame), left)
        before = _accumulator(read_addend(frame).view(np.float32))
        write(frame, _to_registers(_add_up(frame, *factors, before, left)))

    return product


# Width of a swizzled row in bytes by the descriptor's two highest bits.
SWIZZLES = {0: 16, 1: 128, 2: 64, 3: 32}


@dataclass
class Tile:
    """An operand in shared memory: `outer` rows or columns by `inner` of k, in 8 x (16 bytes) pieces."""

    outer: int
    inner: int
    kind: str
    transposed: bool  # the outer dimension is contiguous, not k

    def offsets(self, swizzle: int, leading: int, stride: int) -> np.ndarray:
        """Bytes from the start of the tile, before swizzling, (outer, inner)."""
        size, width = ITEM[self.kind], SWIZZLES[swizzle]
        contiguous, other = np.arange(self.outer)[:, None], np.arange(self.inner)[None, :]
        if not self.transposed:
            contiguous, other = other, contiguous
        per_row = width // size
        if swizzle == 0:  # leading: along k; stride: along the outer dimension
            if self.transposed:
                leading, stride = stride, leading
            far = contiguous // per_row * leading + other // 8 * stride
        else:
            far = contiguous // per_row * (leading if self.transposed else 0) + other // 8 * stride
            if not self.transposed and self.inner > per_row:
                raise PtxError("an operand of wgmma is longer than its swizzled row")
        return far + contiguous % per_row * size + other % 8 * width

    def read(self, frame, descriptors: np.ndarray, bases: np.ndarray, instruction) -> np.ndarray:
        """(groups, outer, inner) in float64; one descriptor and base of shared memory for each group."""
        fields = [
            (int(d >> 62), int(d >> 16 & 0x3FFF) * 16, int(d >> 32 & 0x3FFF) * 16)
            for d in map(int, descriptors)
        ]
        if len(set(fields)) != 1:
            raise PtxError(f"programs differ in the layout of an operand: {instruction}")
        swizzle = fields[0][0]
        start = (descriptors & np.uint64(0x3FFF)).astype(np.int64) * 16
        addresses = start[:, None, None] + self.offsets(*fields[0])
        chunk_bits = SWIZZLES[swizzle] // 16 - 1
        addresses = addresses ^ ((addresses >> 7 & chunk_bits) << 4)
        if addresses.min() < 0 or addresses.max() + ITEM[self.kind] > frame.shared.size:
            raise PtxError(f"an operand reaches past the shared memory: {instruction}")
        addresses = addresses + bases[:, None, None]
        if frame.shared.races is not None:
            flat = addresses.ravel()
            everyone = np.full(len(flat), frame.shared.races.MANY)
            frame.shared.races.read(
                everyone, frame.batch.epoch, flat, None, ITEM[self.kind], instruction, by_proxy=True
            )
        return _numbers(
            frame.shared.raw(ITEM[self.kind], 1)[addresses // ITEM[self.kind]], self.kind
        )


@dataclass
class Product:
    """A wgmma in flight: what it read of registers when it was issued."""

    build: "Wgmma"
    left: np.ndarray  # (lanes,) descriptors, or (lanes, 4) registers
    right: np.ndarray
    adds: np.ndarray

    def of(self, lanes) -> "Product":
        """Of some lanes."""
        return replace(self, left=self.left[lanes], right=self.right[lanes], adds=self.adds[lanes])

    def finish(self, frame) -> None:
        """Read shared memory and the accumulator, write the accumulator."""
        self.build.finish(frame, self)


class Wgmma:
    """One wgmma.mma_async."""

    def __init__(self, builder, instruction: Instruction) -> None:
        shape, result, self.kind, right_kind = instruction.modifiers[3:7]
        d, a, b, scale_d, scale_a, scale_b, *transposed = instruction.operands
        self.columns = int(shape.split("n")[1].split("k")[0])
        depth = int(shape.split("k")[1])
        if result != "f32" or right_kind != self.kind or instruction.guard or self.kind not in ITEM:
            raise UnsupportedError(instruction)
        if (scale_a, scale_b) != ("1", "1"):
            raise UnsupportedError(instruction)
        self.instruction = instruction
        self.write, self.read = builder.scatterer(d), builder.gatherer(d)
        self.in_registers = isinstance(a, tuple)
        flags = [flag == "1" for flag in transposed]
        self.left_tile = Tile(64, depth, self.kind, len(flags) == 2 and flags[0])
        self.right_tile = Tile(self.columns, depth, self.kind, bool(flags) and flags[-1])
        self.read_left = builder.gatherer(a) if self.in_registers else builder.reader(a, "b64")
        self.read_right = builder.reader(b, "b64")
        self.read_adds = builder.reader(scale_d, "pred")

    def issue(self, frame) -> None:
        """Remember descriptors and registers."""
        if frame.num_warps % 4 or frame.first_warp % 4:
            raise PtxError(f"not a whole group of four warps: {self.instruction}")
        full = lambda values: np.broadcast_to(values, frame.num_lanes).copy()  # noqa: E731
        left = self.read_left(frame)
        if self.in_registers:
            left = np.ascontiguousarray(left.reshape(len(left), -1).T)
        work = Product(
            self,
            left if self.in_registers else full(left),
            full(self.read_right(frame)),
            full(self.read_adds(frame)),
        )
        frame.add_pending("products", work)

    def finish(self, frame, work: Product) -> None:
        programs = frame.batch.num_programs
        groups = frame.num_warps // 4 * programs

        def of_groups(
            lanes,
        ):  # (lanes,) to one value of each (group, program), alike in all of its lanes
            values = lanes.reshape(-1, 4, programs, machine.WARP).swapaxes(1, 2).reshape(groups, -1)
            if (values != values[:, :1]).any():
                raise PtxError(f"an operand differs within a group of warps: {self.instruction}")
            return values[:, 0]

        def by_group(rows):  # (warps, 16, n) to (groups, 64, n)
            split = rows.reshape(-1, 4, programs, *rows.shape[1:]).swapaxes(1, 2)
            return split.reshape(groups, 64, rows.shape[-1])

        bases = of_groups(frame.shared_base)
        if self.in_registers:
            registers = np.ascontiguousarray(work.left.T).reshape(4, -1, machine.WARP)
            left = by_group(_left(registers, self.kind))
        else:
            left = self.left_tile.read(frame, of_groups(work.left), bases, self.instruction)
        right = self.right_tile.read(frame, of_groups(work.right), bases, self.instruction)
        adds = of_groups(work.adds)
        before = np.zeros(())
        if adds.any():
            before = by_group(_accumulator(self.read(frame).view(np.float32)))
            before = np.where(adds[:, None, None], before, 0.0)
        total = _add_up(frame, left, right.swapaxes(1, 2), before, self.kind)
        total = total.reshape(-1, programs, 4, 16, self.columns).swapaxes(1, 2)
        self.write(frame, _to_registers(total.reshape(-1, 16, self.columns)))


@family("wgmma")
def _wgmma(builder, instruction):
    if "fence" in instruction.modifiers:
        return lambda frame: None
    if "commit_group" in instruction.modifiers:
        return lambda frame: frame.commit("products")
    if "wait_group" in instruction.modifiers:
        number = int(instruction.operands[0], 0)
        return lambda frame: frame.wait("products", number)
    return Wgmma(builder, instruction).issue
