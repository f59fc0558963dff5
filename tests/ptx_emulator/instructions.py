"""Each instruction becomes a function of a frame: None to go on, an index to jump to, or a barrier.

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


def same(count):
    """All operands of the last modifier's type."""
    return lambda instruction: [instruction.modifiers[-1]] * (count + 1)


def ftz(instruction, function):
    """With .ftz, subnormal operands and results count as 0; with .sat results are within [0, 1]."""
    rounded = function
    if "ftz" in instruction.modifiers:
        rounded = lambda *values: ar.flush(function(*(ar.flush(v) for v in values)))  # noqa: E731
    if "sat" not in instruction.modifiers:
        return rounded
    return lambda *values: np.clip(np.nan_to_num(rounded(*values), nan=0.0), 0, 1)


# Half-precision types are kept as bits; their arithmetic is that of float32, rounded (exact for one
# operation: float32 has more than twice their digits).
def by_type(f_float, f_int=None):
    """The function for the instruction's type."""

    def choose(instruction):
        kind = instruction.modifiers[-1]
        if kind in ("f32", "f64"):
            return ftz(instruction, f_float)
        if "sat" in instruction.modifiers:
            return None
        if kind == "bf16":
            return lambda *v: ar.bf16_bits(f_float(*(ar.bf16_values(x) for x in v)))
        if kind == "f16":
            return lambda *v: np.asarray(f_float(*(x.astype(np.float32) for x in v)), np.float16)
        if kind in ("f16x2", "bf16x2"):
            return halves(f_float, kind)
        return f_int or f_float

    return choose


def halves(function, kind):
    """`function` of both halves of packed operands."""
    widen, narrow = (
        (lambda b: b.view(np.float16).astype(np.float32), ar.f16_bits)
        if kind == "f16x2"
        else (ar.bf16_values, ar.bf16_bits)
    )

    def packed(*values):
        low = narrow(function(*(widen(v.astype(np.uint16)) for v in values)))
        high = narrow(function(*(widen((v >> np.uint32(16)).astype(np.uint16)) for v in values)))
        return low | (high.astype(np.uint32) << np.uint32(16))

    return packed


def packed_kinds(count):
    def kinds(instruction):
        kind = instruction.modifiers[-1]
        return [{"f16x2": "b32", "bf16x2": "b32"}.get(kind, kind)] * (count + 1)

    return kinds


def minimum(instruction):
    nan = "NaN" in instruction.modifiers
    return by_type(np.minimum if nan else np.fmin, np.minimum)(instruction)


def maximum(instruction):
    nan = "NaN" in instruction.modifiers
    return by_type(np.maximum if nan else np.fmax, np.maximum)(instruction)


def fused(instruction):
    if instruction.modifiers[-1] == "f64":
        return lambda a, b, c: a * b + c
    return by_type(ar.fma_f32)(instruction)


def divide(instruction):
    return by_type(np.divide, ar.truncated_division)(instruction)


def remainder(instruction):
    return lambda a, b: a - ar.truncated_division(a, b) * b


def multiply(instruction):
    kind = instruction.modifiers[-1]
    if "wide" in instruction.modifiers:
        wide = ar.dtype_of(f"{kind[0]}{2 * int(kind[1:])}")
        return lambda a, b: np.multiply(a, b, dtype=wide)
    if "hi" in instruction.modifiers:
        if kind[1:] == "64":
            return ar.high_product
        wide = ar.dtype_of(f"{kind[0]}{2 * int(kind[1:])}")
        return lambda a, b: np.multiply(a, b, dtype=wide) >> wide.type(int(kind[1:]))
    return by_type(np.multiply)(instruction)


def multiply_kinds(instruction):
    kind = packed_kinds(0)(instruction)[0]
    result = f"{kind[0]}{2 * int(kind[1:])}" if "wide" in instruction.modifiers else kind
    return [result, kind, kind] if instruction.name == "mul" else [result, kind, kind, result]


def multiply_add(instruction):
    if instruction.modifiers[-1] in ("f32", "f64"):
        return fused(instruction)
    product = multiply(instruction)
    return product and (lambda a, b, c: product(a, b) + c)


def approximate(function):
    return lambda instruction: ftz(instruction, ar.in_float64(function))


def shift_kinds(instruction):
    kind = instruction.modifiers[-1]
    return [kind, kind, "u32"]


def shift(function):
    def choose(instruction):
        kind = kind_of(instruction.modifiers[-1])
        dtype = ar.dtype_of(kind)
        return lambda a, b: function(a, np.minimum(b, 64).astype(dtype))

    return choose


def extract(instruction):
    kind = instruction.modifiers[-1]
    width = int(kind[1:])

    def unsigned(a, position, length):
        mask = (np.uint64(1) << np.minimum(length, 64).astype(np.uint64)) - np.uint64(1)
        return (a.astype(np.uint64) >> position.astype(np.uint64)) & mask

    def signed(a, position, length):
        top = np.minimum(position.astype(np.int64) + length.astype(np.int64), width)
        left = (width - top).astype(a.dtype)
        kept = (width - (top - position.astype(np.int64))).astype(a.dtype)
        return np.where(length == 0, 0, (a << left) >> kept)

    return signed if kind[0] == "s" else unsigned


BITWISE = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert}
for _name, _function in BITWISE.items():
    FAMILIES[_name] = elementwise(lambda i, f=_function: f, same(1 if _name == "not" else 2))
FAMILIES |= {
    "add": elementwise(by_type(np.add), packed_kinds(2)),
    "sub": elementwise(by_type(np.subtract), packed_kinds(2)),
    "min": elementwise(minimum, packed_kinds(2)),
    "max": elementwise(maximum, packed_kinds(2)),
    "neg": elementwise(by_type(np.negative), packed_kinds(1)),
    "abs": elementwise(by_type(np.abs), packed_kinds(1)),
    "fma": elementwise(fused, packed_kinds(3)),
    "div": elementwise(divide, same(2)),
    "rem": elementwise(remainder, same(2)),
    "mul": elementwise(multiply, multiply_kinds),
    "mad": elementwise(multiply_add, multiply_kinds),
    "ex2": elementwise(approximate(np.exp2), same(1)),
    "lg2": elementwise(approximate(np.log2), same(1)),
    "sqrt": elementwise(approximate(np.sqrt), same(1)),
    "rsqrt": elementwise(approximate(lambda x: 1 / np.sqrt(x)), same(1)),
    "rcp": elementwise(approximate(lambda x: 1 / x), same(1)),
    "sin": elementwise(approximate(np.sin), same(1)),
    "cos": elementwise(approximate(np.cos), same(1)),
    "tanh": elementwise(approximate(np.tanh), same(1)),
    "shl": elementwise(shift(np.left_shift), shift_kinds),
    "shr": elementwise(shift(np.right_shift), shift_kinds),
    "bfe": elementwise(extract, lambda i: [i.modifiers[-1]] * 2 + ["u32", "u32"]),
    "cvta": elementwise(lambda i: lambda a: a, same(1)),
}  # fmt: skip


@family("mov")
def _mov(builder, instruction):
    kind = instruction.modifiers[-1]
    target, source = instruction.operands
    if isinstance(source, tuple):
        width = WIDTHS[kind] // len(source)
        reads = [builder.reader(part, f"u{width}") for part in source]
        write = builder.writer(target, kind, instruction)
        wide = np.dtype(f"u{WIDTHS[kind] // 8}")

        def pack(frame):
            total = wide.type(0)
            for i, read in enumerate(reads):
                total = total | (np.asarray(read(frame)).astype(wide) << wide.type(i * width))
            write(frame, total)

        return pack
    read = builder.reader(source, kind)
    if isinstance(target, tuple):
        width = WIDTHS[kind] // len(target)
        wide, narrow = np.dtype(f"u{WIDTHS[kind] // 8}"), np.dtype(f"u{width // 8}")
        writes = [builder.writer(part, f"u{width}", instruction) for part in target]

        def unpack(frame):
            value = np.array(read(frame))
            for i, write in enumerate(writes):
                write(frame, (value >> wide.type(i * width)).astype(narrow))

        return unpack
    write = builder.writer(target, kind, instruction)
    return lambda frame: write(frame, read(frame))


@family("selp")
def _selp(builder, instruction):
    kind = instruction.modifiers[-1]
    target, a, b, p = instruction.operands
    write = builder.writer(target, kind, instruction)
    first, second = builder.reader(a, kind), builder.reader(b, kind)
    chosen = builder.reader(p, "pred")
    return lambda frame: write(frame, np.where(chosen(frame), first(frame), second(frame)))


def _unordered(function):
    return lambda a, b: function(a, b) | np.isnan(a) | np.isnan(b)


COMPARISONS = {
    "eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    "ne": lambda a, b: (a != b) & (a == a) & (b == b), "neu": np.not_equal,
    "equ": _unordered(np.equal), "ltu": _unordered(np.less), "leu": _unordered(np.less_equal),
    "gtu": _unordered(np.greater), "geu": _unordered(np.greater_equal),
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)), "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}  # fmt: skip


@family("setp")
def _setp(builder, instruction):
    comparison, *rest, kind = (m for m in instruction.modifiers if m != "ftz")
    compare = COMPARISONS[comparison]
    targets = instruction.operands[0].split("|")
    read_kind = kind if kind != "bf16" else "u16"
    first, second = (builder.reader(o, read_kind) for o in instruction.operands[1:3])
    if kind == "bf16":
        raise UnsupportedError(instruction)
    writes = [builder.writer(name, "pred", instruction) for name in targets]
    combine = BITWISE[rest[0]] if rest else None
    other = builder.reader(instruction.operands[3], "pred") if rest else None
    flushed = "ftz" in instruction.modifiers

    def run(frame):
        a, b = first(frame), second(frame)
        if flushed:
            a, b = ar.flush(a), ar.flush(b)
        values = compare(a, b)
        for write, outcome in zip(
            writes, (values, ~values if len(writes) > 1 else None), strict=False
        ):
            write(frame, combine(outcome, other(frame)) if combine else outcome)

    return run


@family("cvt")
def _cvt(builder, instruction):
    target, *sources = instruction.operands
    rounding, (to, of) = instruction.modifiers[:-2], instruction.modifiers[-2:]
    flushed, saturated = "ftz" in rounding, "sat" in rounding
    rounding = [r for r in rounding if r not in ("ftz", "sat", "relu", "satfinite")]
    if "relu" in instruction.modifiers or "satfinite" in instruction.modifiers or saturated:
        raise UnsupportedError(instruction)
    reads = [builder.reader(source, of) for source in sources]
    narrow = {"bf16": ar.bf16_bits, "f16": ar.f16_bits, "tf32": ar.tf32_bits}
    if to in ("bf16x2", "f16x2"):
        write = builder.writer(target, "b32", instruction)
        high, low = reads
        half = narrow[to[:-2]]
        if rounding != ["rn"]:
            raise UnsupportedError(instruction)
        return lambda frame: write(
            frame,
            half(low(frame)).astype(np.uint32)
            | half(high(frame)).astype(np.uint32) << np.uint32(16),
        )
    (read,) = reads
    if to in narrow and of == "f32":
        if rounding != ["rna" if to == "tf32" else "rn"]:
            raise UnsupportedError(instruction)
        write = builder.writer(target, "b32" if to == "tf32" else "b16", instruction)
        return lambda frame: write(frame, narrow[to](read(frame)))
    write = builder.writer(target, to, instruction)
    if of == "bf16":
        return lambda frame: write(frame, ar.bf16_values(read(frame)))
    dtype = ar.dtype_of(kind_of(to))
    if of[0] == "f" and to[0] in "us":
        return lambda frame: write(frame, ar.float_to_int(read(frame), dtype, rounding[0]))
    if of[0] == "f" and to == of:
        whole = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding[0]]
        return lambda frame: write(frame, whole(read(frame)))
    if rounding not in ([], ["rn"]):
        raise UnsupportedError(instruction)
    if flushed:
        return lambda frame: write(frame, ar.flush(read(frame).astype(dtype)))
    return lambda frame: write(frame, np.asarray(read(frame)).astype(dtype))


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


from ptx_emulator import (  # noqa: E402, F401  (they add families)
    barrier_instructions,
    bit_instructions,
    memory_instructions,
    tensor_cores,
)
