"""The host's share of an eager step, on a driver that starts nothing."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is there only on Linux")
from fusedface.bench import host
from fusedface.bench.stub_driver import StubDriver
from fusedface.kernels import CosFace
from fusedface.kernels.gpu import launch


def test_a_step_is_seven_launches_that_were_worked_out_before(monkeypatch):
    """What is timed is the steps after the warm-up: none of them works out a launch again."""
    drivers, worked_out, start = [], [], launch.start

    def driver():
        drivers.append(StubDriver())
        return drivers[-1]

    def noting(kernel, *args, **options):
        worked_out.append(kernel.__name__)
        return start(kernel, *args, **options)

    monkeypatch.setattr(host, "MARGINS", (CosFace(),))
    monkeypatch.setattr(host, "StubDriver", driver)
    monkeypatch.setattr(launch, "start", noting)
    row, empty = host.run(torch.device("cpu"), steps=4)
    assert (row["margin"], row["driver"]) == ("cosface", "stub")
    assert 0 < row["fastest_us"] <= row["median_us"]
    assert (empty["margin"], len(drivers[1].started)) == ("an empty function", 0)
    statistics = 1  # of the first step, so that a captured one finds their kernel loaded
    assert len(drivers[0].started) == 7 * (host.WARM_UP + 4) + statistics
    # When tile shapes are decided, and when launches are noted.
    assert len(worked_out) == 7 * 2 + statistics
