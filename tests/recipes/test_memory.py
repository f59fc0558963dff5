"""Freed memory that a process keeps."""

import ctypes
import os
import subprocess
import sys

import pytest

PAGES_OF_TWO_BLOCKS = """
import resource, sys, torch
from fusedface.recipes.host.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults(mebibytes):  # above 32, the limit that glibc finds for itself
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(mebibytes, 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(64), faults(48))  # a smaller one: what is freed next to a small block does not grow
"""


def faults(what, **variables):
    environment = {k: v for k, v in os.environ.items() if "MALLOC" not in k} | variables
    command = [sys.executable, "-c", PAGES_OF_TWO_BLOCKS, what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="other C libraries are left alone",
)
def test_the_second_block_needs_no_new_pages():
    """Pages are counted by the system; a user's own limit stays in force."""
    first, second = faults("keep")
    assert second < first / 10
    _, second = faults("keep", MALLOC_MMAP_THRESHOLD_="1000000")
    assert second > first / 10
    _, second = faults("leave")
    assert second > first / 10
