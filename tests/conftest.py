"""Fixtures shared by all tests."""

import gc
import os
from pathlib import Path

import pytest
import torch

# Tests are many small operations, for which threads that wait for each other cost more than they give;
# on a busy machine, a thousand times more. The same in processes that tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real faces and public checkpoints next to the checkout; they are never part of it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real faces next to this checkout (../shared/data)")
    return folder


@pytest.hookimpl(trylast=True)  # after -m
def pytest_collection_modifyitems(config, items):
    """What is marked `exhaustive` takes up to hours: it runs only where the mark is asked for."""
    if "exhaustive" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("exhaustive")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(trylast=True)  # when pytest-xdist has sent what became of the test
def pytest_runtest_logfinish(nodeid):
    """After an illegal access of memory a process can use its GPU no more: another takes its place."""
    if "PYTEST_XDIST_WORKER" not in os.environ or not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        print(f"{nodeid}: the device is lost to this process: {error}", flush=True)
        os._exit(1)


def pytest_collection_finish():
    """What is imported stays, and garbage in cycles is rare: looking for it took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 100)
