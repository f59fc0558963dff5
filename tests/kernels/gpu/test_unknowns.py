"""The kernels of `bench unknowns`, compiled for a GPU that is not there."""

import io
from dataclasses import replace

import pytest
import torch
import triton
from gpu_launches import TARGETS, record, usage
from rich.console import Console
from triton.compiler import ASTSource

from fusedface.bench import tables, unknowns
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


def test_a_figure_that_fails_leaves_the_others(monkeypatch):
    """And each is told as soon as it is taken: a part of the suite may be killed after any of them."""

    def fails(*_):
        raise RuntimeError("no graph here\nand more")

    figures = [{"what": "flash", "measured": 28.0, "unit": "us", "assumed": "28 us"}]
    monkeypatch.setattr(unknowns, "read_rate", lambda *_: 5.5e12)
    monkeypatch.setattr(unknowns, "node_seconds", fails)
    monkeypatch.setattr(unknowns, "programs", lambda *_: figures)
    told = []
    rows = unknowns.run(torch.device("cuda"), on_rows=lambda rows: told.append(len(rows)))
    assert told == [1, 2, 3]
    assert [row["measured"] for row in rows] == [5.5, None, 28.0]
    assert "no graph here" in rows[1]["note"]
    console = Console(width=120, file=io.StringIO())
    tables.print_unknowns(rows, console)
    assert "no graph here" in console.file.getvalue()
