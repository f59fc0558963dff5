"""What holds of the kernels without a GPU.

The table is in the output of `pytest -rP tests/kernels/gpu/test_gates.py`. Gates 1 to 3 read off the
machine code what a turn of a main loop executes on sm_90 (bfloat16, D = 128, 64 x 64): what is counted here
a warp executes for 32 logits of each of its threads. Times follow from that in docs/performance.md.
Gate 5, that rare paths run and are right, is gpu_emulated/test_rare_paths.py.
"""

from collections import Counter

import pytest
import triton
from gpu_launches import compiled, instructions_of_loops, record, record_whole, usage

from fusedface.kernels import ArcFace, CosFace, CurricularFace, MVArc
from fusedface.kernels.gpu import traffic

ROWS, CLASSES = 512, 85_742
ONE_COMPILER = pytest.mark.skipif(
    not triton.__version__.startswith("3.7."), reason="the budgets are those of one compiler"
)
# (kernel, margin, whether rows have gradients of their own): instructions, of which on the slow pipe (ALU),
# programs to a multiprocessor. The N of CurricularFace is quadratic, that of CosFace the identity.
BUDGETS = {
    ("flash_kernel", CurricularFace(), False): (550, 90, 3),
    ("flash_kernel", CosFace(), False): (310, 60, 3),
    ("centre_gradient_kernel", CurricularFace(), False): (400, 40, 3),
    ("centre_gradient_kernel", CosFace(), False): (205, 40, 3),
    ("centre_gradient_kernel", CurricularFace(), True): (455, 40, 3),
    ("centre_gradient_kernel", CosFace(), True): (250, 40, 3),
}
ALU = (
    "FMNMX", "FSETP", "FSEL", "ISETP", "LOP3", "IADD3", "SEL", "PRMT", "SHF", "LEA", "PLOP3", "MOV",
    "VIADD", "IMNMX", "VIMNMX", "IABS", "SGXT",
)  # fmt: skip


def shown(gate, what, allowed, found):
    print(f"gate {gate}  {what:66} {allowed:>8} {found:>22}")


@ONE_COMPILER
@pytest.mark.parametrize(("kernel", "margin", "of_rows"), BUDGETS, ids=str)
def test_instructions_of_a_tile(kernel, margin, of_rows, monkeypatch):
    launches = record_whole(ROWS, CLASSES, 128, margin, of_rows=of_rows, monkeypatch=monkeypatch)
    launch = next(launch for launch in launches if launch.name == kernel)
    assert launch.tile.blocks() == {"BLOCK_B": 64, "BLOCK_C": 64}
    assert launch.tile.num_warps == 4
    used = usage(launch, "sm_90")
    loop = max(instructions_of_loops(compiled(launch, "sm_90").asm["cubin"]), key=len)
    counts = Counter(name.split(".")[0] for name in loop)
    alu = sum(counts[name] for name in ALU)
    room = used.programs("sm_90", launch.tile.num_warps)
    most, most_alu, programs = BUDGETS[kernel, margin, of_rows]
    name = f"{kernel}, {margin.name}{', gradient of rows' * of_rows}"
    shown(1, f"{name}: products that wait for others", "none", "some" if used.serial else "none")
    shown(1, f"{name}: bytes spilled", "0", f"{used.spilled} ({used.registers} registers)")
    shown(2, f"{name}: instructions of a 64 x 64 tile", f"<= {most}", f"{len(loop)}")
    shown(2, f"{name}: of them on the slow pipe", f"<= {most_alu}", f"{alu}")
    shown(3, f"{name}: programs to a multiprocessor", f">= {programs}", f"{room}")
    assert counts["MUFU"] == 32  # one exponential a logit, none again
    assert len(loop) <= most
    assert alu <= most_alu
    assert not used.spilled
    assert not used.serial
    assert room >= programs == launch.tile.programs


OF_PYTORCH = (
    2  # the gradient of the loss, and the assertion on the labels (test_no_wait.py counts them)
)


@pytest.mark.parametrize("dim", [128, 512])
@pytest.mark.parametrize(
    "margin", [CosFace(), ArcFace(), MVArc(), CurricularFace()], ids=lambda margin: margin.name
)
def test_launches_of_a_step(margin, dim, monkeypatch):
    """Eager, forward and backward; at D = 512 in two chunks of classes."""
    ours = len(record_whole(ROWS, CLASSES, dim, margin, monkeypatch=monkeypatch))
    what = f"{margin.name}, D = {dim}: launches of a step"
    shown(4, what, "<= 12", f"{ours} + {OF_PYTORCH} of PyTorch")
    assert ours + OF_PYTORCH <= 12


@pytest.mark.parametrize(("dim", "most"), [(128, 0.5e9), (512, 2.3e9)])
def test_bytes_from_l2(dim, most, monkeypatch):
    """Of a step in bfloat16; test_traffic.py holds the count against the launches."""
    names = {
        "flash_kernel": "flash", "centre_gradient_kernel": "centres", "lse_kernel": "lse",
        "coefficients_kernel": "coefficients", "products_kernel": "products",
    }  # fmt: skip
    launches = record(ROWS, CLASSES, dim, monkeypatch=monkeypatch)
    tiles = {names[la.name]: la.tile for la in launches if la.name in names}
    found = traffic.from_l2(traffic.Problem(ROWS, CLASSES, dim), tiles, 33)
    total = sum(found.values())
    shown(6, f"D = {dim}: GB from L2", f"<= {most / 1e9}", f"{total / 1e9:.2f}")
    assert total <= most
