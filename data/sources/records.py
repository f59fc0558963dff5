"""Files of many records: mapping into memory, and errors on broken records."""

import mmap
from collections.abc import Sequence
from pathlib import Path

from fusedface.data.sources.reading import readable

SHOWN_PROBLEMS = 5  # of a file with many


class BadRecord(ValueError):  # noqa: N818  the name says what it is
    """A record that cannot be read.

    Args:
        path: the file.
        offset: of the record, in bytes.
        reason: why it cannot be read.
        key: of the record, if it was found by a key.
    """

    def __init__(self, path: str, offset: int, reason: str, key: int | None = None) -> None:
        found = "" if key is None else f"key {key}, "
        super().__init__(f"{path}: {found}byte {offset}: {reason}")
        self.path, self.offset, self.reason, self.key = path, offset, reason, key

    def __reduce__(self) -> tuple[type, tuple]:  # it crosses from worker processes
        return type(self), (self.path, self.offset, self.reason, self.key)


class MappedFile:
    """A file mapped into memory.

    Safe in any number of processes: they share no position in the file, and a process that receives it
    pickled maps the file again.

    Args:
        path: the file.

    Raises:
        ValueError: it is missing or empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with readable(path), path.open("rb") as file:
            self.size = file.seek(0, 2)
            if not self.size:
                raise ValueError(f"{path} is empty")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def check_unchanged(self) -> None:
        """Raise ValueError if the file has become shorter: reading past its end would kill the process."""
        now = self._map.size()
        if now < self.size:
            raise ValueError(
                f"{self.path} had {self.size} bytes when it was opened and has {now} now; "
                "restore it before going on"
            )

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.__init__(path)  # pyright: ignore[reportIncompatibleMethodOverride]


def left_out(bad: Sequence[BadRecord]) -> list[str]:
    """Messages for the user on broken records that were left out."""
    if not bad:
        return []
    shown = "\n  ".join(str(error) for error in bad[:SHOWN_PROBLEMS])
    more = f"\n  and {len(bad) - SHOWN_PROBLEMS} more" if len(bad) > SHOWN_PROBLEMS else ""
    return [f"left out {len(bad)} broken records:\n  {shown}{more}"]
