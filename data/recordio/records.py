"""The container: byte strings, one after another, in one .rec file.

    record   one part, or a first, any number of middle ones, and a last
    part     magic | flag and length | data | zeros up to a multiple of 4      little-endian
    magic    0xCED7230A, 4 bytes
    flag     upper 3 bits: 0 whole, 1 first, 2 middle, 3 last      length   lower 29 bits

A record that contains the magic at a multiple of 4 is split there, and the magic is left out. So the
magic at a multiple of 4 of the file always begins a part. Source: recordio.h of dmlc-core.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from fusedface.data.sources.records import BadRecord, MappedFile

MAGIC = 0xCED7230A
MAGIC_BYTES = MAGIC.to_bytes(4, "little")
WHOLE, FIRST, MIDDLE, LAST = range(4)
FLAG_SHIFT = 29
LENGTH_MASK = (1 << FLAG_SHIFT) - 1
PART_HEADER = 8  # bytes
RECORD_HEADER = struct.Struct("<IfQQ")  # at the start of a pack's record: header.py
# Limits on the cost of one damaged or hostile record. A face has a few kB, in one part.
MAX_RECORD_BYTES = 1 << 26
MAX_PARTS = 1 << 16


class Part(NamedTuple):
    """The place of a part's data in the file."""

    flag: int
    start: int
    stop: int

    @property
    def next(self) -> int:
        """Byte offset of the next part."""
        return self.stop + -self.stop % 4


class RecordFile(MappedFile):
    """The records of a .rec file, by their byte offsets."""

    def read(self, offset: int) -> bytes:
        """The record at `offset`, its parts joined.

        Raises:
            BadRecord: there is no whole record.
        """
        self.check_unchanged()
        part = self.part(offset)
        if part.flag == WHOLE:
            return self._map[part.start : part.stop]
        if part.flag != FIRST:
            raise self._bad(offset, "in the midst of a record that is in several parts")
        pieces, total = [self._map[part.start : part.stop]], part.stop - part.start
        while part.flag != LAST:
            part = self.part(part.next)
            total += part.stop - part.start + len(MAGIC_BYTES)
            if part.flag not in (MIDDLE, LAST):
                raise self._bad(
                    offset, f"its next part, at byte {part.start - 8}, is of another record"
                )
            if total > MAX_RECORD_BYTES or len(pieces) == MAX_PARTS:
                raise self._bad(offset, f"more than {MAX_RECORD_BYTES} bytes or {MAX_PARTS} parts")
            pieces.append(self._map[part.start : part.stop])
        return MAGIC_BYTES.join(pieces)

    def part(self, offset: int) -> Part:
        """The part at `offset`.

        Raises:
            BadRecord: the part is missing, or longer than the file.
        """
        start = offset + PART_HEADER
        if offset < 0 or start > self.size:
            raise self._bad(offset, f"past the end of the file, which has {self.size} bytes")
        if self._map[offset : offset + 4] != MAGIC_BYTES:
            raise self._bad(offset, f"no record begins here (no magic number {MAGIC:#x})")
        word = int.from_bytes(self._map[offset + 4 : start], "little")
        flag, length = word >> FLAG_SHIFT, word & LENGTH_MASK
        if length > MAX_RECORD_BYTES:
            raise self._bad(offset, f"{length} bytes, more than {MAX_RECORD_BYTES}")
        if start + length > self.size:
            missing = start + length - self.size
            raise self._bad(
                offset, f"cut off: {missing} of {length} bytes lie past the end of the file"
            )
        return Part(flag, start, start + length)

    def heads(self, offsets: np.ndarray, num_bytes: int) -> np.ndarray:
        """The first bytes of many parts at once, including the part header; (N, num_bytes) uint8.

        Args:
            offsets: (N,) int64, none negative; bytes past the end of the file read as zeros.
            num_bytes: the number of bytes of each part.
        """
        self.check_unchanged()
        mapped = np.frombuffer(self._map, np.uint8)
        positions = offsets[:, None] + np.arange(num_bytes)
        inside = positions < self.size
        return np.where(inside, mapped[np.where(inside, positions, 0)], 0).astype(np.uint8)

    def offsets(self) -> Iterator[int]:
        """Byte offsets of all records, in the order of the file.

        Raises:
            BadRecord: a part is broken, so the rest cannot be found.
        """
        offset = 0
        while offset < self.size:
            part = self.part(offset)
            if part.flag in (WHOLE, FIRST):
                yield offset
            offset = part.next

    def _bad(self, offset: int, reason: str) -> BadRecord:
        return BadRecord(str(self.path), offset, reason)


def write_record(file: BinaryIO, data: bytes) -> int:
    """Append a record.

    Args:
        file: open for writing.
        data: the record.

    Returns:
        The byte offset at which it begins.

    Raises:
        ValueError: it is too long for a record, or would need too many parts.
    """
    pieces = _split(data)
    if len(data) > MAX_RECORD_BYTES or len(pieces) > MAX_PARTS:
        raise ValueError(
            f"a record has at most {MAX_RECORD_BYTES} bytes and {MAX_PARTS} parts, "
            f"got {len(data)} bytes in {len(pieces)}"
        )
    offset = file.tell()
    for i, piece in enumerate(pieces):
        first, last = i == 0, i == len(pieces) - 1
        flag = (WHOLE if last else FIRST) if first else (LAST if last else MIDDLE)
        word = flag << FLAG_SHIFT | len(piece)
        file.write(MAGIC_BYTES + word.to_bytes(4, "little") + piece + bytes(-len(piece) % 4))
    return offset


def _split(data: bytes) -> list[bytes]:
    """Cut out the magic wherever it begins at a multiple of 4."""
    pieces, start, found = [], 0, data.find(MAGIC_BYTES)
    while found >= 0:
        if found % 4 == 0:
            pieces.append(data[start:found])
            start = found + 4
        found = data.find(MAGIC_BYTES, found + 1 if found % 4 else start)
    return [*pieces, data[start:]]
