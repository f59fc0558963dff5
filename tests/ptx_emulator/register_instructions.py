"""Instructions that move, choose, compare and convert."""

import numpy as np

from ptx_emulator import arithmetic as ar
from ptx_emulator.arithmetic_instructions import BITWISE
from ptx_emulator.building import WIDTHS, UnsupportedError, family, kind_of


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
