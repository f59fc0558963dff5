"""The .idx file of a pack: one line `key<TAB>byte offset` per record, in any order."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusedface.data.recordio.records import PART_HEADER, RECORD_HEADER

# Least bytes of a record in the .rec file, and most bytes of a line in the .idx file. An index longer than
# these allow cannot be right, and is not read.
MIN_RECORD_BYTES = PART_HEADER + RECORD_HEADER.size
MAX_LINE_BYTES = 42


class Index(NamedTuple):
    """The records of a pack, sorted by key."""

    keys: np.ndarray  # (N,) int64, distinct, none negative
    offsets: np.ndarray  # (N,) int64, none negative


def read_index(path: Path, rec_size: int) -> Index:
    """Read an index.

    Args:
        path: of the .idx file.
        rec_size: of the .rec file, in bytes.

    Raises:
        ValueError: it is missing, malformed, or holds a key twice.
    """
    _check_size(path, rec_size)
    table = _parse(path)
    order = np.argsort(table[:, 0], kind="stable")
    keys, offsets = table[order, 0], table[order, 1]
    if len(keys) and (keys[0] < 0 or offsets.min() < 0):
        row = int(np.flatnonzero((table < 0).any(axis=1))[0])
        raise ValueError(f"{path}: key {table[row, 0]}, byte {table[row, 1]}: must not be negative")
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        raise ValueError(f"{path}: key {keys[twice[0]]} and {len(twice) - 1} more occur twice")
    return Index(keys, offsets)


def _check_size(path: Path, rec_size: int) -> None:
    """Raise ValueError for an index that is missing, or larger than its .rec file allows."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ValueError(
            f"cannot read {path}: {error.strerror}; a pack's records are found by it"
        ) from None
    if size > (rec_size // MIN_RECORD_BYTES + 1) * MAX_LINE_BYTES:
        raise ValueError(
            f"{path} has {size} bytes, more than an index of a .rec file of {rec_size} bytes can have"
        )


def _parse(path: Path) -> np.ndarray:
    """(N, 2) int64 keys and offsets."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error"
            )  # numpy would take 1.5 for 1, and an empty file for a table
            table = np.loadtxt(path, np.int64, comments=None, ndmin=2, encoding="ascii")
    except (ValueError, Warning, OSError) as error:
        raise ValueError(f"{path}: expected lines of 'key<TAB>byte offset': {error}") from None
    if table.shape[1] != 2:
        raise ValueError(
            f"{path}: expected lines of 'key<TAB>byte offset', got {table.shape[1]} columns"
        )
    return table
