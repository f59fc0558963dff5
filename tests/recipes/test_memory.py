"""Freed memory that a process keeps."""

import ctypes
import os
import subprocess
import sys

import pytest

from fusedface.recipes.host import memory

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


class OldLibrary:
    """mallopt of glibc up to 2.34 (malloc.c): no limit above half of its largest heap, 64 MB."""

    gnu_get_libc_version = None

    def __init__(self):
        self.set = {}

    def mallopt(self, name, value):
        if name == memory.MMAP_THRESHOLD and value > 2**26 // 2:
            return 0
        self.set[name] = value
        return 1


def test_an_older_library_gets_the_highest_limit_that_it_takes(monkeypatch):
    """To end its own search without one would leave the limit at 128 KB."""
    library = OldLibrary()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: library)
    for name in memory.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    memory.keep_freed_memory()
    assert library.set == {memory.MMAP_THRESHOLD: 2**25, memory.TRIM_THRESHOLD: -1}
