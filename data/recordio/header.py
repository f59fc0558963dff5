"""The content of a pack's record: a header with labels, then an encoded image.

    flag u32 | label f32 | id u64 | id2 u64      24 bytes, little-endian
    flag = 0: one label, in the header; flag = n > 0: n labels, float32, follow the header

The record of an identity, and that of the pack itself (key 0), have no image and two labels: a range of
keys. Source: recordio.py of MXNet (IRHeader), and the packs of insightface.
"""

from typing import NamedTuple

import numpy as np

from fusedface.data.recordio.records import (
    LENGTH_MASK,
    MAGIC,
    PART_HEADER,
    RECORD_HEADER,
    RecordFile,
)
from fusedface.data.sources.records import BadRecord

LABELS_READ = 2  # of each record: those of a range, or an image's label and one more
MAX_LABEL = 1 << 24  # up to here float32 holds every integer


class Record(NamedTuple):
    """A record, taken apart."""

    labels: np.ndarray  # (n,) float32
    image: bytes  # empty in a record without an image


class Headers(NamedTuple):
    """Headers of many records at once."""

    labels: np.ndarray  # (N, 2) float32; the second is 0 in a record of one label
    is_range: np.ndarray  # (N,) bool; two labels and no image
    has_image: np.ndarray  # (N,) bool
    plain: np.ndarray  # (N,) bool; False: the record has several parts or is broken, read it


def read_record(records: RecordFile, offset: int, key: int) -> Record:
    """Read one record and split it into labels and image.

    Raises:
        BadRecord: it is broken, or shorter than its header says; the message names file, key and offset.
    """
    try:
        data = records.read(offset)
    except BadRecord as error:
        raise BadRecord(error.path, offset, error.reason, key) from None
    if len(data) < RECORD_HEADER.size:
        reason = f"{len(data)} bytes, less than a header's {RECORD_HEADER.size}"
        raise BadRecord(str(records.path), offset, reason, key)
    count, label, _, _ = RECORD_HEADER.unpack_from(data)
    if count == 0:
        return Record(np.array([label], np.float32), data[RECORD_HEADER.size :])
    stop = RECORD_HEADER.size + 4 * count
    if stop > len(data):
        reason = f"{len(data)} bytes are too few for the {count} labels its header promises"
        raise BadRecord(str(records.path), offset, reason, key)
    return Record(np.frombuffer(data[RECORD_HEADER.size : stop], "<f4"), data[stop:])


def pack_image(label: int, key: int, image: bytes) -> bytes:
    """The record of an image."""
    return RECORD_HEADER.pack(0, label, key, 0) + image


def pack_range(key: int, first: int, stop: int, *, whole_pack: bool = False) -> bytes:
    """The record of an identity whose images have the keys first <= key < stop, or of the pack."""
    labels = np.array([first, stop], "<f4").tobytes()
    return RECORD_HEADER.pack(2, 0.0, key, int(whole_pack)) + labels


def read_headers(records: RecordFile, offsets: np.ndarray) -> Headers:
    """Read headers at many byte offsets (N,), without reading the images."""
    parts = [_read_headers(records, chunk) for chunk in _chunks(offsets)]
    return Headers(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _chunks(offsets: np.ndarray) -> list[np.ndarray]:
    size = 1 << 16  # as positions in the file, 25 MiB at a time
    return [offsets[i : i + size] for i in range(0, max(len(offsets), 1), size)]


def _read_headers(records: RecordFile, offsets: np.ndarray) -> Headers:
    heads = records.heads(offsets, PART_HEADER + RECORD_HEADER.size + 4 * LABELS_READ)
    words = heads.view("<u4")  # magic, flag and length, header (6), labels (2)
    length = (words[:, 1] & LENGTH_MASK).astype(np.int64)
    count = words[:, 2].astype(np.int64)
    body = RECORD_HEADER.size + 4 * count
    whole = (words[:, 0] == MAGIC) & (words[:, 1] == words[:, 1] & LENGTH_MASK)
    plain = whole & (body <= length) & (offsets + PART_HEADER + length <= records.size)
    floats = heads.view("<f4")
    labels = np.where(count[:, None] == 0, floats[:, 3:4], floats[:, 8:10])
    labels[count <= 1, 1] = 0
    return Headers(labels, (count == 2) & (length == body), length > body, plain)
