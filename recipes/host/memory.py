"""What the C library does with memory that a step on a CPU has freed. Imports nothing of ours."""

import ctypes
import os
import sys

VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables by which a user has decided already."""
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of the settings in mallopt(3)
LARGEST, NEVER = 2**30, -1
LARGEST_BEFORE = 2**25  # glibc up to 2.34 takes no higher limit


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step, in this whole process.

    Otherwise it returns every freed block of over 32 MB to the system, which clears the pages again before
    it hands them out: up to a third of a training step (docs/performance.md). The process then holds the
    most memory that it ever used. Other C libraries, and the choice of a user, stay as they are.
    """
    if sys.platform != "linux" or any(name in os.environ for name in VARIABLES):
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    # The second setting ends glibc's own search for the first, which is to start with far too low.
    if any(library.mallopt(MMAP_THRESHOLD, limit) for limit in (LARGEST, LARGEST_BEFORE)):
        library.mallopt(TRIM_THRESHOLD, NEVER)
