"""Write a source of faces as a pack in insightface's layout."""

import os
import tempfile
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusedface.data.recordio.header import MAX_LABEL, pack_image, pack_range
from fusedface.data.recordio.records import write_record
from fusedface.data.sources import FaceSource
from fusedface.data.sources.images import UnreadableImage, decode_image

FILES = ("train.rec", "train.idx", "property")


class Written(NamedTuple):
    """The counts of a written pack."""

    num_images: int
    num_classes: int
    image_size: tuple[int, int]  # H, W
    skipped: tuple[UnreadableImage, ...]


def write_pack(source: FaceSource, folder: Path, *, skip_bad: bool = False) -> Written:
    """Write train.rec, train.idx and property; encoded images are copied byte for byte.

    Images are in the order of their identities, and identities are numbered as in the source. All
    three files appear at the end, or none does.

    Args:
        source: the faces; images that it does not hold encoded are written as PNG.
        folder: the folder of the pack, created if it does not exist.
        skip_bad: leave out unreadable images; `Written.skipped` has them.

    Raises:
        UnreadableImage: an image cannot be decoded, and `skip_bad` is False.
        ValueError: a pack exists already, images differ in size, or the source has too many classes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (folder / name).exists():
            raise ValueError(f"{folder / name} exists already; give another folder")
    if source.num_classes > MAX_LABEL:
        raise ValueError(f"a pack holds at most {MAX_LABEL} identities, got {source.num_classes}")
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        written = _write(source, Path(partial), skip_bad)
        for name in FILES:
            os.replace(Path(partial) / name, folder / name)
    return written


def _write(source: FaceSource, folder: Path, skip_bad: bool) -> Written:
    skipped: list[UnreadableImage] = []
    offsets = array("q")  # of the records of keys 1, 2, ...
    ranges: list[tuple[int, int]] = []
    image_size = None
    with (folder / "train.rec").open("wb") as file:
        for images in _by_identity(source.labels):
            first = len(offsets) + 1
            for index in images.tolist():
                try:
                    data, size = _encoded(source, index)
                except UnreadableImage as error:
                    if not skip_bad:
                        raise
                    skipped.append(error)
                    continue
                image_size = image_size or size
                if size != image_size:
                    raise ValueError(
                        f"{source.describe(index)} is {size[0]}x{size[1]}, others are "
                        f"{image_size[0]}x{image_size[1]}; the images of a pack have one size"
                    )
                record = pack_image(len(ranges), len(offsets) + 1, data)
                offsets.append(write_record(file, record))
            if len(offsets) >= first:
                ranges.append((first, len(offsets) + 1))
        num_images = len(offsets)
        if image_size is None:
            raise ValueError(f"none of the {len(source)} images can be read: {skipped[-1]}")
        for first, stop in ranges:
            offsets.append(write_record(file, pack_range(len(offsets) + 1, first, stop)))
        own = pack_range(0, num_images + 1, len(offsets) + 1, whole_pack=True)
        last = write_record(file, own)
    _write_index(folder / "train.idx", offsets, last)
    height, width = image_size
    (folder / "property").write_text(f"{len(ranges)},{height},{width}\n", encoding="ascii")
    return Written(num_images, len(ranges), image_size, tuple(skipped))


def _encoded(source: FaceSource, index: int) -> tuple[bytes, tuple[int, int]]:
    """The bytes of an image, and its size (H, W)."""
    data = source.encoded(index)
    height, width = decode_image(data, source.describe(index)).shape[:2]
    return data, (height, width)


def _write_index(path: Path, offsets: Iterable[int], last: int) -> None:
    """Write the index: the offsets of keys 1, 2, ..., then that of key 0."""
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.writelines(f"{key}\t{offset}\n" for key, offset in enumerate(offsets, start=1))
        file.write(f"0\t{last}\n")


def _by_identity(labels: np.ndarray) -> list[np.ndarray]:
    """The indices of the images of each identity."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
