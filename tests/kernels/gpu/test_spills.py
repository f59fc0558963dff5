"""A tile shape whose compiled kernel spills is passed over before it has run.

Kernels are compiled for sm_80, and started on a driver without a device that says what was started.
"""

import warnings
from types import SimpleNamespace

import pytest
import torch
import triton
from gpu_launches import TARGETS, run_on_meta
from triton.compiler import compiler

from fusedface.kernels.gpu import choice, flash, rows, wide


class Driver:
    """What Triton asks of a driver; `spills` says of each kernel loaded how many words it spills."""

    def __init__(self, spills, shared_memory=2**20):
        self.started, self.loaded, self.spills = [], [], spills
        properties = {"max_shared_mem": shared_memory, "multiprocessor_count": 3, "warpSize": 32}
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: properties,
            load_binary=self.load_binary,
            unload_module=lambda module: None,
        )

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return TARGETS["sm_80"]

    def load_binary(self, name, *_):
        self.loaded.append(name)
        return object(), 0, 128, self.spills(name, self.loaded.count(name)), 1024

    def launcher_cls(self, source, metadata):
        assert metadata.enable_fp_fusion  # which later versions no longer do by themselves
        names = source.fn.arg_names
        blocks = {
            names[i]: value for (i,), value in source.constants.items() if "BLOCK" in names[i]
        }
        return lambda *args: self.started.append((metadata.name, blocks))

    def blocks(self, kernel):
        return [blocks for name, blocks in self.started if name == kernel]


@pytest.fixture
def steps(monkeypatch):
    """A forward on tensors without data, `num` times, with the driver that is given."""

    def run(driver, num=1, reweights=True):
        monkeypatch.setattr(triton.runtime.driver, "_active", driver)
        compiler.max_shared_mem.cache_clear()
        for _ in range(num):
            run_on_meta(64, 1000, 16, "bfloat16", 1.0, reweights, False, torch.float32)
        return driver

    choice.forget()
    yield run
    choice.forget()
    compiler.max_shared_mem.cache_clear()
    for kernel in (
        rows.unit_rows_kernel,
        rows.target_cosine_kernel,
        wide.lse_kernel,
        flash.combine_kernel,
    ):
        kernel.device_caches.clear()  # of kernels loaded by that driver


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
    warmup, tried = wide.lse_kernel.warmup, []

    def failing_once(*args, **options):
        tried.append(options["BLOCK_B"])
        if len(tried) == 1:
            raise RuntimeError("PassManager::run failed")
        return warmup(*args, **options)

    monkeypatch.setattr(wide.lse_kernel, "warmup", failing_once)
    with pytest.warns(RuntimeWarning, match=r"trying the next \(PassManager::run failed"):
        driver = steps(Driver(lambda name, nth: 0), num=2)
    assert driver.blocks("lse_kernel") == [shipped()[1]] * 2
    assert len(tried) == 2  # decided once
