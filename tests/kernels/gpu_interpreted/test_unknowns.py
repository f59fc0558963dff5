"""What `bench unknowns` measures: reads are made and counted, two and three programs are timed."""

import pytest
import torch

from fusedface.bench import unknowns
from fusedface.kernels.gpu import choice
from fusedface.kernels.gpu.tiles import SHARED_MEMORY, Limits, shipped

CPU = torch.device("cpu")


def test_a_rate_is_the_bytes_of_all_programs_by_the_time(monkeypatch):
    monkeypatch.setattr(unknowns, "READ_BYTES", 4 * 3 * unknowns.READ_BLOCK)  # three blocks
    monkeypatch.setattr(unknowns, "READ_REPEATS", 5)
    calls = []

    def two_milliseconds(call, device):
        call()
        calls.append(device)
        return 2.0

    rate = unknowns.read_rate(CPU, two_milliseconds, readers=4)
    assert rate == 4 * 5 * unknowns.READ_BLOCK * 4 / 2e-3
    assert calls == [CPU]


@pytest.mark.parametrize("missed", [0.5, float("nan")])
def test_a_kernel_that_reads_something_else_gives_no_rate(monkeypatch, missed):
    monkeypatch.setattr(unknowns, "READ_BYTES", 4 * 3 * unknowns.READ_BLOCK)
    monkeypatch.setattr(unknowns, "READ_REPEATS", 2)
    monkeypatch.setattr(torch, "ones", lambda n, device: torch.full((n,), missed, device=device))
    with pytest.raises(RuntimeError, match="did not read"):
        unknowns.read_rate(CPU, lambda call, device: call() or 1.0, readers=2)


def test_the_kernels_are_timed_with_three_programs_and_with_two(monkeypatch):
    """A GPU's tile shapes on the sizes of a test; the clock only counts."""
    limits = Limits("sm_90", SHARED_MEMORY["sm_90"])
    choice.forget()
    monkeypatch.setattr(
        choice,
        "ranked",
        lambda case, device: shipped(case.kernel, case.dim, case.precision, 2, limits),
    )
    clock = iter(range(1, 100))

    def count(call, device):
        call()
        return float(next(clock))

    rows = unknowns.programs(CPU, (32, 100, 128), count)
    assert [(row["what"].split(",")[0], row["what"].split()[1]) for row in rows] == [
        (kernel, count) for kernel in ("flash", "centres") for count in ("3", "2")
    ]
    assert [row["measured"] for row in rows] == [2e3, 5e3, 8e3, 11e3]  # medians of three
