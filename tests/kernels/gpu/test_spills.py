"""A tile shape whose compiled kernel spills is passed over before it has run.

Kernels are compiled for sm_80, and started on a driver without a device that says what was started.
"""

import warnings

import pytest
import torch
import triton
from gpu_launches import run_on_meta

from fusedface.bench import stub_driver
from fusedface.bench.stub_driver import StubDriver
from fusedface.kernels.gpu import choice, log_sum_exp


class Driver(StubDriver):
    def launcher_cls(self, source, metadata):
        assert metadata.enable_fp_fusion  # which later versions no longer do by themselves
        return super().launcher_cls(source, metadata)


@pytest.fixture
def steps(monkeypatch):
    """A forward on tensors without data, `num` times, with the driver that is given."""

    def run(driver, num=1, reweights=True):
        monkeypatch.setattr(triton.runtime.driver, "_active", driver)
        stub_driver.forget()
        for _ in range(num):
            run_on_meta(64, 1000, 16, "bfloat16", 1.0, reweights, False, torch.float32)
        return driver

    yield run
    stub_driver.forget()


def shipped():
    """Blocks of the tile shapes that ship, in order."""
    case = choice.case_of("lse", (64, 1000, 16), "bfloat16")
    return [tile.blocks() for tile in choice.ranked(case, torch.device("meta"))]


def test_the_first_that_does_not_spill_runs(steps):
    """From the first step on, so that results do not change between steps; and it is no failure."""
    with warnings.catch_warnings(action="error"):
        driver = steps(Driver(lambda name, nth: 2 * (name == "lse_kernel" and nth == 1)), num=3)
    assert driver.blocks("lse_kernel") == [shipped()[1]] * 3
    assert driver.loaded.count("lse_kernel") == 2


def test_nothing_is_passed_over_where_nothing_spills(steps):
    driver = steps(Driver(lambda name, nth: 0), num=2)
    assert driver.blocks("lse_kernel") == [shipped()[0]] * 2
    assert driver.loaded.count("lse_kernel") == 1


def test_where_all_spill_the_first_runs(steps):
    driver = steps(Driver(lambda name, nth: 2 * (name == "lse_kernel")), num=2)
    assert driver.blocks("lse_kernel") == [shipped()[0]] * 2


def test_it_is_decided_for_what_is_compiled(steps):
    """A margin that re-weights negatives may spill where one that does not, does not."""
    driver = Driver(lambda name, nth: 2 * (name == "lse_kernel" and nth == 1))
    steps(driver)
    steps(driver, reweights=False)
    assert driver.blocks("lse_kernel") == shipped()[1::-1]


def test_too_much_shared_memory_is_found_before_anything_has_run(steps):
    driver = Driver(lambda name, nth: 0, shared_memory=12_000)
    with pytest.warns(RuntimeWarning, match=r"lse kernel: Tile\(.*trying the next.*shared memory"):
        steps(driver, num=2)
    assert driver.blocks("lse_kernel") == [shipped()[1]] * 2


def test_a_pass_of_the_compiler_that_fails_is_no_more_than_a_refusal(steps, monkeypatch):
    """It raises a RuntimeError of no class of its own."""
    warmup, tried = log_sum_exp.lse_kernel.warmup, []

    def failing_once(*args, **options):
        tried.append(options["BLOCK_B"])
        if len(tried) == 1:
            raise RuntimeError("PassManager::run failed")
        return warmup(*args, **options)

    monkeypatch.setattr(log_sum_exp.lse_kernel, "warmup", failing_once)
    with pytest.warns(RuntimeWarning, match=r"trying the next \(PassManager::run failed"):
        driver = steps(Driver(lambda name, nth: 0), num=2)
    assert driver.blocks("lse_kernel") == [shipped()[1]] * 2
    assert len(tried) == 2  # decided once
