"""What a turn of a main loop executes on sm_90, read off the machine code: bfloat16, D = 128, 64 x 64.

The tables are in the output of `pytest -rP tests/kernels/gpu/test_budgets.py`. A warp executes what is
counted here for 32 logits of each of its threads. Times follow from them in docs/performance.md.
"""

from collections import Counter

import pytest
import triton
from gpu_launches import compiled, instructions_of_loops, record, usage

pytestmark = pytest.mark.skipif(
    not triton.__version__.startswith("3.7."), reason="the budgets are those of one compiler"
)
# (kernel, kind of N): instructions, of which on the slow pipe (ALU), programs to a multiprocessor.
BUDGETS = {
    ("flash_kernel", "quadratic"): (560, 90, 3),
    ("flash_kernel", "plain"): (310, 60, 3),
    ("centre_gradient_kernel", "quadratic"): (455, 40, 3),
    ("centre_gradient_kernel", "plain"): (250, 40, 3),
}
KINDS = {"quadratic": (1.0, True), "plain": (0.0, False)}
ALU = (
    "FMNMX", "FSETP", "FSEL", "ISETP", "LOP3", "IADD3", "SEL", "PRMT", "SHF", "LEA", "PLOP3", "MOV",
    "VIADD", "IMNMX", "VIMNMX", "IABS", "SGXT",
)  # fmt: skip


@pytest.mark.parametrize(("kernel", "kind"), BUDGETS)
def test_instructions_of_a_tile(kernel, kind, monkeypatch):
    square, reweights = KINDS[kind]
    launches = record(
        512,
        85_742,
        128,
        square=square,
        reweights=reweights,
        target="sm_90",
        monkeypatch=monkeypatch,
    )
    launch = next(launch for launch in launches if launch.name == kernel)
    assert launch.tile.blocks() == {"BLOCK_B": 64, "BLOCK_C": 64}
    assert launch.tile.num_warps == 4
    used = usage(launch, "sm_90")
    loop = max(instructions_of_loops(compiled(launch, "sm_90").asm["cubin"]), key=len)
    counts = Counter(name.split(".")[0] for name in loop)
    alu = sum(counts[name] for name in ALU)
    room = used.programs("sm_90", launch.tile.num_warps)
    print(f"{kernel} {kind}: {len(loop)} instructions, ALU {alu}, {room} programs, {dict(counts)}")
    most, most_alu, programs = BUDGETS[kernel, kind]
    assert counts["MUFU"] == 32  # one exponential a logit, none again
    assert len(loop) <= most
    assert alu <= most_alu
    assert not used.spilled
    assert not used.serial
    assert room >= programs == launch.tile.programs
