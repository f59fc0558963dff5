"""What the C library does with memory that a step on a CPU has freed, and the error for too little of it.

Imports nothing of ours.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def enough_memory() -> Iterator[None]:
    """Replace the errors for too little memory, of a GPU or of the computer, by an OSError.

    Raises:
        OSError: there is too little memory; the message says what takes less.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OSError(
            f"too little memory: lower optim.batch_size or set optim.accumulate ({lines[0][:200]})"
        ) from error


def _is_of_memory(error: Exception) -> bool:
    of_gpu = type(error).__name__ == "OutOfMemoryError"  # torch's; torch takes seconds to import
    return isinstance(error, MemoryError) or of_gpu or "can't allocate memory" in str(error)
