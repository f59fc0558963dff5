"""A lock that allows one process at a time in a run directory.

It is a lock of the operating system on a file in the folder. It ends with its process, even a killed one,
so a file that is left behind blocks nobody.
"""

import errno
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from fusedface.recipes.run_directory.files import read_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "run.lock"
IS_HELD = (errno.EACCES, errno.EAGAIN)

# POSIX lets a process lock the same file twice, and unlocks it when any of its descriptors is closed. So
# the locks of this process are listed here.
_held_here: set[Path] = set()


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for the same folder, then run the block.

    If the system or the file system has no locks, nobody waits.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # which unlocks it


class FolderLock:
    """Locks a folder for this process; a context manager that unlocks it at its end.

    If the system or the file system has no locks, the folder is silently not locked.

    Args:
        folder: the folder; it is made if it does not exist.

    Raises:
        ValueError: another process, or another run in this process, has locked it; the message names it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder.resolve() / LOCK
        self._descriptor: int | None = None
        if fcntl is None:
            return
        if self.path in _held_here:
            raise ValueError(self._in_use(f"process {os.getpid()}, this one"))
        while self._descriptor is None:
            self._descriptor = self._take()
        _held_here.add(self.path)
        with suppress(OSError):  # such as a full disk; the lock holds nevertheless
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, (json.dumps(_this_process()) + "\n").encode())

    def _take(self) -> int | None:
        """A descriptor of the locked file; None if its last owner has just removed the file."""
        assert fcntl is not None
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in IS_HELD:
                os.close(descriptor)
                raise ValueError(self._in_use(_owner(self.path))) from None
        if self._is_ours(descriptor):
            return descriptor
        os.close(descriptor)
        return None

    def _is_ours(self, descriptor: int) -> bool:
        """Whether the path still names the locked file."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _in_use(self, owner: str) -> str:
        return (
            f"{self.folder} is in use by {owner}; two runs in one folder would mix their results. Wait "
            "until it has ended or stop it, or choose another --out"
        )

    def release(self) -> None:
        """Unlock the folder; a second call does nothing."""
        if self._descriptor is None:
            return
        if self._is_ours(self._descriptor):  # remove the name before the lock
            self.path.unlink(missing_ok=True)
        _held_here.discard(self.path)
        os.close(self._descriptor)
        self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def _this_process() -> dict[str, object]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": platform.node(), "since": since}


def _owner(path: Path) -> str:
    """The owner of a lock, from its file."""
    try:
        said = read_json(path)
        return f"process {said['process']} on {said['host']} since {said['since']}"
    except (ValueError, OSError, KeyError, TypeError):
        return "another process"
