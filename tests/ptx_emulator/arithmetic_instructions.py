"""Instructions that compute each result from the same lane of their operands."""

import numpy as np

from ptx_emulator import arithmetic as ar
from ptx_emulator.building import FAMILIES, elementwise, kind_of


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
