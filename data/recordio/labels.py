"""Which records of a pack are images, and whose.

Reading the label of each image would mean reading a pack of 40 GB from end to end. If there is a
record for each identity, its range of keys gives the labels, and two images of each identity are
checked. A wrong label elsewhere is noticed when its image is read.
"""

from bisect import bisect_left
from typing import NamedTuple

import numpy as np

from fusedface.data.recordio.header import MAX_LABEL, read_headers, read_record
from fusedface.data.recordio.index import Index
from fusedface.data.recordio.records import PART_HEADER, RecordFile
from fusedface.data.sources.records import BadRecord


class Images(NamedTuple):
    """The N image records of a pack, sorted by key."""

    keys: np.ndarray  # (N,) int64
    offsets: np.ndarray  # (N,) int64
    labels: np.ndarray  # (N,) int64, as in the pack
    bad: tuple[BadRecord, ...]  # left out


def image_records(records: RecordFile, index: Index, *, skip_bad: bool) -> Images:
    """Find the images and their labels.

    Raises:
        BadRecord: a record that was read is broken, and broken records are not left out.
        ValueError: index and records disagree, or there are no images.
    """
    if skip_bad:
        images = _by_headers(records, index, skip_bad=True)
    else:
        _check_inside(records, index)
        images = _by_ranges(records, index) or _by_headers(records, index)
    if not len(images.keys):
        raise ValueError(f"{records.path} holds no images")
    return images


def _check_inside(records: RecordFile, index: Index) -> None:
    outside = np.flatnonzero(index.offsets > records.size - PART_HEADER)
    if len(outside):
        first = int(outside[0])
        reason = f"past the end of the file, which has {records.size} bytes"
        if len(outside) > 1:
            reason += f"; so are {len(outside) - 1} more of {len(index.keys)} records"
        raise BadRecord(
            str(records.path), int(index.offsets[first]), reason, int(index.keys[first])
        )


def _by_headers(records: RecordFile, index: Index, *, skip_bad: bool = False) -> Images:
    """Look at every record."""
    headers = read_headers(records, index.offsets)
    with np.errstate(invalid="ignore"):  # signalling NaNs of a damaged file
        labels = headers.labels[:, 0].astype(np.float64)
    is_image = headers.has_image & headers.plain & _is_class(labels)
    is_range = headers.is_range & headers.plain
    bad = []
    for i in np.flatnonzero(~(is_image | is_range)):
        try:
            labels[i] = _label_of(records, int(index.keys[i]), int(index.offsets[i]))
            is_image[i] = True
        except BadRecord as error:
            if not skip_bad:
                raise
            bad.append(error)
    keys, offsets = index.keys[is_image], index.offsets[is_image]
    return Images(keys, offsets, labels[is_image].astype(np.int64), tuple(bad))


def _is_class(labels: np.ndarray) -> np.ndarray:
    return (labels >= 0) & (labels <= MAX_LABEL) & (labels == np.floor(labels))


def _label_of(records: RecordFile, key: int, offset: int) -> float:
    record = read_record(records, offset, key)
    if not record.image:
        raise BadRecord(str(records.path), offset, "holds no image", key)
    if not _is_class(record.labels[:1])[0]:
        reason = f"the label {record.labels[0]:g} is no class number from 0 to {MAX_LABEL}"
        raise BadRecord(str(records.path), offset, reason, key)
    return float(record.labels[0])


def _by_ranges(records: RecordFile, index: Index) -> Images | None:
    """By the records of the identities; None if it has none, or their ranges leave gaps or turn back."""
    if not len(index.keys) or index.keys[0] != 0:
        return None
    own = read_record(records, int(index.offsets[0]), 0)
    if own.image or len(own.labels) != 2:
        return None
    num_images = _num_images(records, index, own.labels)
    if num_images == len(index.keys) - 1:
        return None
    keys, offsets = index.keys[1 : num_images + 1], index.offsets[1 : num_images + 1]
    ranges = read_headers(records, index.offsets[num_images + 1 :])
    if not (ranges.is_range.all() and _tile(ranges.labels, num_images)):
        return None
    stops = ranges.labels[:, 1]
    # First key and end of each identity's images, rounded to float32.
    stop = np.minimum(stops.astype(np.int64) - 1, num_images)
    start = np.concatenate([[0], stop[:-1]])
    start, stop = start[stop > start], stop[stop > start]
    first, last = (read_headers(records, offsets[ends]) for ends in (start, stop - 1))
    with np.errstate(invalid="ignore"):
        label = first.labels[:, 0].astype(np.float64)
    sure = first.plain & last.plain & _is_class(label) & (label == last.labels[:, 0])
    labels = np.where(sure, label, 0).astype(np.int64).repeat(stop - start)
    unsure = ~sure.repeat(stop - start)
    looked_at = _by_headers(records, Index(keys[unsure], offsets[unsure]))
    if len(looked_at.keys) != unsure.sum():
        return None
    labels[unsure] = looked_at.labels
    return Images(keys, offsets, labels, ())


def _tile(ranges: np.ndarray, num_images: int) -> bool:
    """Whether ranges of keys (P, 2), first key and end, follow one another from 1 to the last image."""
    edges = np.concatenate([[np.float32(1)], ranges[:, 1]])
    follow = (edges[:-1] == ranges[:, 0]).all() and (edges[1:] >= edges[:-1]).all()
    return bool(follow and edges[-1] == np.float32(num_images + 1))


def _refuse_gaps(records: RecordFile, index: Index) -> None:
    """Raise ValueError unless the keys are 0, 1, 2, ..."""
    gaps = np.flatnonzero(index.keys != np.arange(len(index.keys)))
    if len(gaps):
        raise ValueError(
            f"{records.path}: the index has no key {gaps[0]}, though keys up to {index.keys[-1]}"
        )


def _num_images(records: RecordFile, index: Index, own: np.ndarray) -> int:
    """N, found from the first record without an image; the index and record 0 must agree with it.

    Without records of identities, the second label of record 0 says nothing about keys: some writers
    put the number of identities there.
    """
    num_records = len(index.keys)
    _refuse_gaps(records, index)
    first_range = bisect_left(
        range(num_records),
        True,
        lo=1,
        key=lambda i: not read_record(records, int(index.offsets[i]), i).image,
    )
    if own[0] != np.float32(first_range):
        raise ValueError(
            f"{records.path}: the pack's own record (key 0) says that images end before key "
            f"{own[0]:.0f}, the records say {first_range}"
        )
    if first_range < num_records and own[1] != np.float32(num_records):
        raise ValueError(
            f"{records.path}: the pack's own record (key 0) says that keys end before {own[1]:.0f}, the "
            f"index has {num_records - 1}"
        )
    return first_range - 1
