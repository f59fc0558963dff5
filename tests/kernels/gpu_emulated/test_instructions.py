"""Single instructions on raw PTX, against Python's integers and PyTorch."""

import math
import re

import numpy as np
import pytest
import torch
from ptx_emulator import Options, PtxError
from ptx_emulator.arguments import Arguments
from ptx_emulator.machine import Program

LANES = 64  # two warps


def ptx(body):
    """A kernel that loads a, b and c, executes `body` and stores d, all 64 bits wide."""
    text = ".visible .entry f(.param .u64 .ptr .global a, .param .u64 .ptr .global d)\n{\n"
    text += "\t.reg .b16 %h<4>;\n\t.reg .b32 %r<8>;\n\t.reg .b64 %x<16>;\n\t.reg .pred %p<4>;\n"
    text += "\tmov.u32 %r0, %tid.x;\n\tmul.wide.u32 %x0, %r0, 8;\n\tld.param.b64 %x4, [a];\n"
    text += "\tld.param.b64 %x5, [d];\n\tadd.s64 %x4, %x4, %x0;\n\tadd.s64 %x5, %x5, %x0;\n"
    for i in (1, 2, 3):
        text += (
            f"\tld.global.b64 %x{i}, [%x4+{(i - 1) * 8 * LANES}];\n\tcvt.u32.u64 %r{i}, %x{i};\n"
        )
    return text + f"{body}\n\tst.global.b64 [%x5], %x6;\n\tret;\n}}\n"


def run(body, a, b=None, c=None):
    """d of each lane, as an unsigned number."""
    return counted(body, a, b, c)[0]


def counted(body, a, b=None, c=None):
    """d of each lane, as an unsigned number, and how many warps executed each instruction."""
    zeros = np.zeros(LANES, np.uint64)
    given = torch.from_numpy(
        np.stack([zeros if v is None else v for v in (a, b, c)]).view(np.int64)
    )
    out = torch.zeros(LANES, dtype=torch.int64)
    arguments = Arguments()
    arguments.add("a", given)
    arguments.add("d", out)
    program = Program(ptx(body))
    counts = program.run(
        (1, 1, 1), LANES // 32, arguments.by_parameter(program.kernel), arguments.memory(True), 0,
        Options(), 90,
    )  # fmt: skip
    texts = [instruction.text for instruction in program.kernel.instructions]
    values = [int(value) for value in out.numpy().view(np.uint64)]
    return values, dict(zip(texts, counts, strict=True))


def random_words(seed, bits=32):
    g = np.random.default_rng(seed)
    words = g.integers(0, 2**bits, LANES, np.uint64, endpoint=False)
    words[:4] = [0, 1, 2**bits - 1, 2 ** (bits - 1)]
    return words


A, B, C = (random_words(seed) for seed in range(3))
WIDEN = "cvt.u64.u32 %x6, %r6;"


def signed(value, bits=32):
    return value - 2**bits if value >> bits - 1 else value


def python_prmt(a, b, c):
    pair, total = b << 32 | a, 0
    for i in range(4):
        nibble = c >> 4 * i & 15
        byte = pair >> 8 * (nibble & 7) & 255
        total |= (255 * (byte >> 7) if nibble & 8 else byte) << 8 * i
    return total


def python_bfi(a, b, position, length):
    bits = format(b, "032b")[::-1]
    new = format(a, "032b")[::-1]
    for i in range(length):
        if position + i < 32:
            bits = bits[: position + i] + new[i] + bits[position + i + 1 :]
    return int(bits[::-1], 2)


INTEGERS = [
    ("popc.b32 %r6, %r1;", lambda a, b, c: a.bit_count()),
    ("clz.b32 %r6, %r1;", lambda a, b, c: 32 - a.bit_length()),
    ("brev.b32 %r6, %r1;", lambda a, b, c: int(format(a, "032b")[::-1], 2)),
    ("prmt.b32 %r6, %r1, %r2, %r3;", python_prmt),
    ("prmt.b32 %r6, %r1, %r2, 0x5410;", lambda a, b, c: b << 16 & 0xFFFF0000 | a & 0xFFFF),
    ("lop3.b32 %r6, %r1, %r2, %r3, 0x96;", lambda a, b, c: a ^ b ^ c),
    ("lop3.b32 %r6, %r1, %r2, %r3, 0xE8;", lambda a, b, c: a & b | a & c | b & c),
    ("lop3.b32 %r6, %r1, %r2, %r3, 0xF8;", lambda a, b, c: a | b & c),
    ("shf.l.wrap.b32 %r6, %r1, %r2, 5;", lambda a, b, c: (b << 32 | a) << 5 >> 32 & 2**32 - 1),
    ("shf.r.clamp.b32 %r6, %r1, %r2, 40;", lambda a, b, c: b),
    ("bfi.b32 %r6, %r1, %r2, 7, 9;", lambda a, b, c: python_bfi(a, b, 7, 9)),
    ("bfi.b32 %r6, %r1, %r2, 28, 9;", lambda a, b, c: python_bfi(a, b, 28, 9)),
    ("bfe.u32 %r6, %r1, 7, 9;", lambda a, b, c: a >> 7 & 511),
    ("bfe.s32 %r6, %r1, 7, 9;", lambda a, b, c: signed(a >> 7 & 511, 9) % 2**32),
    ("mul.hi.s32 %r6, %r1, %r2;", lambda a, b, c: (signed(a) * signed(b) >> 32) % 2**32),
    ("mul.hi.u32 %r6, %r1, %r2;", lambda a, b, c: a * b >> 32),
    ("mad.lo.s32 %r6, %r1, %r2, %r3;", lambda a, b, c: (a * b + c) % 2**32),
    ("div.u32 %r6, %r1, 7;", lambda a, b, c: a // 7),
    ("div.s32 %r6, %r1, 7;", lambda a, b, c: int(math.copysign(abs(signed(a)) // 7, signed(a))) % 2**32),
    ("rem.s32 %r6, %r1, 7;", lambda a, b, c: int(math.fmod(signed(a), 7)) % 2**32),
    ("shl.b32 %r6, %r1, 33;", lambda a, b, c: 0),
    ("shr.s32 %r6, %r1, 33;", lambda a, b, c: 2**32 - 1 if a >> 31 else 0),
    ("max.s32 %r6, %r1, %r2;", lambda a, b, c: max(signed(a), signed(b)) % 2**32),
]  # fmt: skip


@pytest.mark.parametrize(("body", "function"), INTEGERS, ids=lambda value: str(value)[:24])
def test_integers(body, function):
    expected = [function(*map(int, numbers)) for numbers in zip(A, B, C, strict=True)]
    assert run(f"\t{body}\n\t{WIDEN}", A, B, C) == expected


def test_the_upper_half_of_a_product_of_64_bits():
    a, b = (random_words(seed, 64) for seed in (3, 4))
    products = [(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    assert run("mul.hi.u64 %x6, %x1, %x2;", a, b) == [x * y >> 64 for x, y in products]
    expected = [(signed(x, 64) * signed(y, 64) >> 64) % 2**64 for x, y in products]
    assert run("mul.hi.s64 %x6, %x1, %x2;", a, b) == expected


def test_reductions_of_a_warp():
    values = [int(value) for value in A]
    warps = [values[:32], values[32:]]
    body = f"\tredux.sync.OPERATION %r6, %r1, 0xffffffff;\n\t{WIDEN}"
    for operation, function in (("add.s32", lambda v: sum(v) % 2**32), ("max.u32", max)):
        expected = [function(warp) for warp in warps for _ in warp]
        assert run(body.replace("OPERATION", operation), A) == expected
    expected = [min(map(signed, warp)) % 2**32 for warp in warps for _ in warp]
    assert run(body.replace("OPERATION", "min.s32"), A) == expected
    body = f"\tsetp.gt.u32 %p1, %r1, 0x80000000;\n\tvote.sync.ballot.b32 %r6, %p1, -1;\n\t{WIDEN}"
    ballots = [sum((v > 2**31) << i for i, v in enumerate(warp)) for warp in warps]
    assert run(body, A) == [ballots[0]] * 32 + [ballots[1]] * 32


def test_a_reduction_of_some_lanes_is_refused():
    with pytest.raises(PtxError, match="not supported: `redux"):
        run(f"\tredux.sync.add.s32 %r6, %r1, 0xff;\n\t{WIDEN}", A)


def test_one_lane_is_elected():
    body = f"\tmov.b32 %r6, 0;\n\telect.sync %r5|%p1, -1;\n\t@%p1 mov.b32 %r6, 7;\n\t{WIDEN}"
    assert run(body, A) == [7 if lane % 32 == 0 else 0 for lane in range(LANES)]


def floats(*values):
    repeated = np.resize(np.float32(values), LANES)
    return repeated, repeated.view(np.uint32).astype(np.uint64)


def as_floats(words):
    return np.array(words, np.uint64).astype(np.uint32).view(np.float32)


def test_saturation():
    """The step by which negatives are told apart: a multiply-add within [0, 1], and 0 for NaN."""
    cos, a = floats(0.5, 0.50000006, 0.49999997, -0.9, np.nan, np.inf)
    _, big = floats(2.0**100)
    _, threshold = floats(-0.5 * 2.0**100)
    body = f"\tfma.rn.sat.f32 %r6, %r1, %r2, %r3;\n\t{WIDEN}"
    got = as_floats(run(body, a, big, threshold))
    assert got.tolist() == np.where(cos > 0.5, 1.0, 0.0).tolist()


@pytest.mark.parametrize("name", ["sin", "cos", "tanh"])
def test_functions(name):
    values, bits = floats(*np.linspace(-3, 3, LANES))
    got = as_floats(run(f"\t{name}.approx.f32 %r6, %r1;\n\t{WIDEN}", bits))
    np.testing.assert_allclose(got, getattr(np, name)(values.astype(np.float64)), rtol=1e-7)


def test_subnormal_numbers_are_flushed():
    _, bits = floats(1e-40, 2e-38)
    got = as_floats(run(f"\tadd.ftz.f32 %r6, %r1, 0f00000000;\n\t{WIDEN}", bits))
    assert got[:2].tolist() == [0.0, np.float32(2e-38)]


def test_labels_of_one_name_in_two_scopes():
    """Inline assembly comes with its labels: each branch goes to its own."""
    loop = "{\n\t.reg .pred more;\n\tagain:\n\tadd.u32 %r6, %r6, STEP;\n\tsetp.lt.u32 more, %r6, END;\n"
    loop += "\t@more bra.uni again;\n}\n"
    loops = loop.replace("STEP", "3").replace("END", "10") + loop.replace("STEP", "5").replace(
        "END", "40"
    )
    assert run(f"\tmov.b32 %r6, 0;\n{loops}\t{WIDEN}", A) == [42] * LANES


def test_a_branch_within_a_warp():
    """Each lane keeps what its way computes, one of which lies apart; then they go on together."""
    body = """
    mov.b32 %r6, 100;
    setp.lt.u32 %p1, %r0, 5;
    @%p1 bra apart;
    add.u32 %r6, %r6, 7;
    together:
    add.u32 %r6, %r6, %r6;
    bra.uni last;
    apart:
    mul.lo.u32 %r6, %r6, 3;
    bra.uni together;
    last:
    """
    values, counts = counted(f"{body}\t{WIDEN}", A)
    assert values == [600] * 5 + [214] * (LANES - 5)
    of_both = ("@%p1 bra apart", "add.u32 %r6, %r6, 7", "bra.uni last")
    of_one = ("mul.lo.u32 %r6, %r6, 3", "bra.uni together")  # the other warp has no lane there
    assert [counts[text] for text in of_both] == [2, 2, 2]
    assert [counts[text] for text in of_one] == [1, 1]


def test_a_branch_within_a_warp_around_more_than_a_computation():
    body = "\tsetp.lt.u32 %p1, %r0, 5;\n\t@%p1 bra there;\n\tbar.sync 0;\n\tthere:\n"
    with pytest.raises(PtxError, match="a branch divides a warp"):
        run(f"{body}\t{WIDEN}", A)


UNSUPPORTED = [
    "add.sat.s32 %r6, %r1, %r2;",
    "prmt.b32.f4e %r6, %r1, %r2, %r3;",
    "mbarrier.arrive.shared::cta.b64 %x6, [%r1];",
    "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%x4], [%r1], 16;",
    "tensormap.replace.tile.rank.global.b1024.b32 [%x4], 1;",
    "redux.sync.add.f32 %r6, %r1, 0xffffffff;",
]


@pytest.mark.parametrize("body", UNSUPPORTED)
def test_what_is_not_emulated_is_refused(body):
    with pytest.raises(PtxError, match=f"not supported: `{re.escape(body.rstrip(';'))}"):
        Program(ptx(f"\t{body}"))
