"""One process at a time in a run directory.

The lock is the operating system's, on a file in the folder: it ends with its process, however that ends,
so that a file which a killed process has left behind holds nobody up.
"""

import errno
import json
import os
import platform
from contextlib import suppress
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

# POSIX gives a file that a process has locked to that process again, and lets go of it when any of its
# descriptors is closed; so what this process holds is known here.
_held_here: set[Path] = set()


class FolderLock:
    """A folder for this process; a context manager that gives it back.

    Where the system or the file system knows no locks the folder is not held, and nothing is said.

    Args:
        folder: is made if it is not there.

    Raises:
        ValueError: another process, or another run in this one, has it; the message names it.
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
        with suppress(OSError):  # a full disk: it is held all the same
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, (json.dumps(_this_process()) + "\n").encode())

    def _take(self) -> int | None:
        """A descriptor of the locked file; None if its last owner removed it meanwhile."""
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
        """Whether the file of this name is still the one that is locked."""
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
        """Give the folder back; more than once does no harm."""
        if self._descriptor is None:
            return
        if self._is_ours(self._descriptor):  # the name goes first, while the file is still locked
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
    """Who holds a lock, as its file says."""
    try:
        said = read_json(path)
        return f"process {said['process']} on {said['host']} since {said['since']}"
    except (ValueError, OSError, KeyError, TypeError):
        return "another process"
