"""How an instruction becomes a function of a frame: None to go on, an index to jump to, or a barrier.

Functions in `FAMILIES` build those of one opcode: `(builder, instruction) -> function`.
"""

import re

import numpy as np

from ptx_emulator import arithmetic as ar
from ptx_emulator import machine
from ptx_emulator.ptx import Address, Instruction, Kernel, PtxError

FAMILIES = {}
INTEGER = re.compile(r"-?(0[xX][0-9a-fA-F]+|\d+)U?")
FLOAT = re.compile(r"0[fFdD]([0-9a-fA-F]+)")
WIDTHS = {"b8": 8, "b16": 16, "b32": 32, "b64": 64, "pred": 1}
IGNORED = ("membar", "griddepcontrol", "nanosleep", "prefetch", "discard", "applypriority")


def family(*names: str):
    """Register a builder for opcodes that begin so."""

    def register(function):
        FAMILIES.update(dict.fromkeys(names, function))
        return function

    return register


class UnsupportedError(PtxError):
    """An instruction that the emulator does not know."""

    def __init__(self, instruction: Instruction) -> None:
        super().__init__(f"not supported: {instruction}")


def kind_of(suffix: str) -> str:
    """How an operand of a PTX type is read: b32 as u32, bf16 and the like as bits."""
    return {"b8": "u8", "b16": "u16", "b32": "u32", "b64": "u64", "bf16": "u16"}.get(suffix, suffix)


class Builder:
    """Places registers and builds functions."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.bank_sizes = dict.fromkeys(machine.BANKS, 1)
        self._places: dict[str, tuple[str, int]] = {}

    def build(self, instruction: Instruction):
        function = FAMILIES.get(instruction.name)
        if instruction.name in IGNORED:
            return lambda frame: None
        if function is None:
            raise UnsupportedError(instruction)
        return function(self, instruction)

    def place(self, name: str) -> tuple[str, int]:
        """Bank and row of a register."""
        if name not in self._places:
            declared = self.kernel.registers[name]
            bank = "pred" if declared == "pred" else "b" + re.sub(r"\D", "", declared)
            self._places[name] = (bank, self.bank_sizes[bank])
            self.bank_sizes[bank] += 1
        return self._places[name]

    def is_register(self, operand) -> bool:
        return isinstance(operand, str) and operand in self.kernel.registers

    def reader(self, operand: str, kind: str):
        """frame -> values of `kind`: an array of the frame's lanes, or a scalar."""
        kind = kind_of(kind)
        negated = operand.startswith("!")
        if negated:
            row = self.place(operand[1:])[1]
            return lambda frame: ~frame.pred[row]
        if self.is_register(operand):
            bank, row = self.place(operand)
            if machine.KINDS.get(kind) != bank:
                narrow, wide = ar.dtype_of(kind), f"u{bank[1:]}"
                return lambda frame: getattr(frame, wide)[row].astype(narrow)
            return lambda frame: getattr(frame, kind)[row]
        if operand.startswith("%"):
            return self._special(operand[1:])
        if (
            operand in self.kernel.arrays
        ):  # passed by value; what a kernel uses of it is its address
            return lambda frame: frame.launch.arguments[operand]
        value = self.constant(operand, kind)
        return lambda frame: value

    def _special(self, name: str):
        if name in ("ntid.x", "nctaid.x", "nctaid.y", "nctaid.z"):
            axis = "xyz".index(name[-1])
            if name == "ntid.x":
                return lambda frame: np.uint32(frame.launch.num_warps * machine.WARP)
            return lambda frame: np.uint32(frame.launch.grid[axis])
        if name in ("tid.y", "tid.z"):
            return lambda frame: np.uint32(0)
        name = {"tid.x": "tid"}.get(name, name)
        return lambda frame: frame.special[name]

    def constant(self, text: str, kind: str):
        """A literal or the address of a symbol."""
        if text in self.kernel.shared:
            return np.uint64(self.kernel.shared[text]).astype(ar.dtype_of(kind))
        if text in self.kernel.dynamic_shared:
            return np.uint64(self.kernel.static_shared).astype(ar.dtype_of(kind))
        dtype = ar.dtype_of(kind)
        if match := FLOAT.fullmatch(text):
            bits = np.uint32 if len(match[1]) == 8 else np.uint64
            value = bits(int(match[1], 16)).view(np.float32 if bits is np.uint32 else np.float64)
            return value.view(f"u{dtype.itemsize}") if dtype.kind in "ui" else value.astype(dtype)
        if not INTEGER.fullmatch(text):
            raise PtxError(f"operand {text!r} is not understood")
        value = int(text.rstrip("U"), 0)
        if dtype.kind == "b":
            return np.bool_(value)
        if dtype.kind == "f":
            return np.array(value, f"u{dtype.itemsize}").view(dtype)[()]
        return np.uint64(value % 2**64).astype(dtype)

    def guard(self, instruction: Instruction):
        """frame -> mask, or None where there is no guard."""
        if instruction.guard is None:
            return None
        name, negated = instruction.guard
        return self.reader("!" + name if negated else name, "pred")

    def writer(self, operand: str, kind: str, instruction: Instruction):
        """(frame, values) -> None; a register wider than `kind` is extended."""
        if operand == "_":
            return lambda frame, values: None
        kind, guard = kind_of(kind), self.guard(instruction)
        bank, row = self.place(operand)
        if machine.KINDS.get(kind) != bank:
            kind = ("s" if kind[0] == "s" else "u") + bank[1:]
        if guard is None:

            def write(frame, values):
                getattr(frame, kind)[row] = values
        else:

            def write(frame, values):
                np.copyto(getattr(frame, kind)[row], values, where=guard(frame), casting="unsafe")

        return write

    def gatherer(self, operands):
        """frame -> bits of 32-bit registers (num, warps, 32), a copy."""
        if all(self.is_register(operand) for operand in operands):
            rows = np.array([self._row_of_32_bits(operand) for operand in operands])
            return lambda frame: frame.u32[rows].reshape(len(rows), -1, machine.WARP)
        reads = [self.reader(operand, "b32") for operand in operands]

        def gather(frame):
            columns = [np.broadcast_to(read(frame), frame.num_lanes) for read in reads]
            return np.stack(columns).reshape(len(reads), -1, machine.WARP)

        return gather

    def scatterer(self, operands):
        """(frame, values (num, warps, 32) of 32 bits each) -> None."""
        rows = np.array([self._row_of_32_bits(operand) for operand in operands])

        def scatter(frame, values):
            frame.u32[rows] = values.view(np.uint32).reshape(len(rows), -1)

        return scatter

    def _row_of_32_bits(self, operand: str) -> int:
        bank, row = self.place(operand)
        if bank != "b32":
            raise PtxError(f"register {operand} of {bank[1:]} bits where 32 are expected")
        return row

    def address(self, operand: Address, kind: str):
        """frame -> addresses of all lanes."""
        dtype = ar.dtype_of(kind)
        offset = np.uint64(operand.offset % 2**64).astype(dtype)
        if not operand.base:
            return lambda frame: np.full(frame.num_lanes, offset, dtype)
        base = self.reader(operand.base, kind)
        if self.is_register(operand.base):
            return lambda frame: base(frame) + offset if offset else base(frame)
        return lambda frame: np.full(frame.num_lanes, base(frame) + offset, dtype)


def elementwise(function, kinds):
    """A family of `d = function(operands)`; kinds(instruction) gives those of d and the operands."""

    def build(builder, instruction):
        result, *of_operands = kinds(instruction)
        write = builder.writer(instruction.operands[0], result, instruction)
        reads = [
            builder.reader(operand, kind)
            for operand, kind in zip(instruction.operands[1:], of_operands, strict=True)
        ]
        chosen = function(instruction)
        if chosen is None:
            raise UnsupportedError(instruction)
        if len(reads) == 2:
            first, second = reads
            return lambda frame: write(frame, chosen(first(frame), second(frame)))
        return lambda frame: write(frame, chosen(*(read(frame) for read in reads)))

    return build
