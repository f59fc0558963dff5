"""Atomic writes: a file is written under another name, flushed to the disk, then renamed."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY = ".partial"


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file; it gets the name `path` only if the block ends without an error."""
    partial = path.with_name(path.name + TEMPORARY)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is not JSON; the message names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, too deep
        raise ValueError(f"{path} is damaged, it is not JSON: {str(error)[:200]}") from None


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name atomically, as a link if the file system allows, else as a copy."""
    partial = target.with_name(target.name + TEMPORARY)
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    os.replace(partial, target)
    partial.unlink(missing_ok=True)  # os.replace keeps it if both names are the same file
    sync_folder(target.parent)


def remove_partial(folder: Path) -> None:
    """Remove half-written files of a killed process."""
    for path in folder.glob(f"*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder, so that a rename survives a power failure; Windows has no such call."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
