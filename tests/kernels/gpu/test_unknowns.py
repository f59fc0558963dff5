"""The kernels of `bench unknowns`, compiled for a GPU that is not there."""

from dataclasses import replace

import pytest
import torch
import triton
from gpu_launches import TARGETS, record, usage
from triton.compiler import ASTSource

from fusedface.bench import unknowns
from fusedface.bench.read_kernel import read_kernel


def test_reads_are_neither_from_l1_nor_moved_out_of_their_loop():
    signature = {"numbers_ptr": "*fp32", "sums_ptr": "*fp32", "num_blocks": "i32"}
    constants = {"REPEATS": unknowns.READ_REPEATS, "BLOCK": unknowns.READ_BLOCK}
    signature |= dict.fromkeys(constants, "constexpr")
    places = {(read_kernel.arg_names.index(name),): value for name, value in constants.items()}
    aligned = {(0,): [["tt.divisibility", 16]], (1,): [["tt.divisibility", 16]]}
    source = ASTSource(read_kernel, signature, places, aligned)
    ptx = triton.compile(source, target=TARGETS["sm_90"]).asm["ptx"]
    loads = [line for line in ptx.splitlines() if "ld.global" in line]
    assert loads
    assert all("ld.global.cg.v4" in line for line in loads)
    loop = ptx[ptx.rindex("$L__BB", 0, ptx.index("ld.global")) : ptx.rindex("bra")]
    assert loop.count("ld.global") == len(loads)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["flash_kernel", "centre_gradient_kernel"])
def test_so_many_programs_fit_a_multiprocessor(kernel, monkeypatch):
    launches = record(512, 85_742, 128, monkeypatch=monkeypatch)
    three = next(launch for launch in launches if launch.name == kernel)
    two = replace(three, tile=unknowns.with_two(three.tile))
    used = [usage(one, "sm_90") for one in (three, two)]
    assert [one.programs("sm_90", 4) for one in used] == [3, 2]
    assert not any(one.spilled for one in used)


def test_no_gpu_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="measures a GPU, and the device is cpu"):
        unknowns.run(torch.device("cpu"))
