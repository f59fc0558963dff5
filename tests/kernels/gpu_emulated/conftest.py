"""Tests on an emulated GPU: a few by default, all of them with `pytest -m emulator`.

Triton is there on Linux alone; without it there is nothing to compile.
"""

from importlib.util import find_spec

import pytest

if find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.hookimpl(trylast=True)  # after -m
def pytest_collection_modifyitems(config, items):
    """What is marked `emulator` takes hours: it runs only where the mark is asked for."""
    if "emulator" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("emulator")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
