"""Verification sets as the field shares them: lfw.bin, cfp_fp.bin, agedb_30.bin, ...

A .bin file is a pickle of (images, same): 2 P encoded images, pair after pair, and P booleans. Each
of its ten folds is a contiguous part of the file, as in the protocol of insightface's trainers.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from fusedface.data.pair_list import (
    EncodedImages,
    PairList,
    check_both_kinds,
    contiguous_folds,
)
from fusedface.data.pickles import Array, RefusedPickle, read_pickle
from fusedface.data.sources.reading import readable

SUFFIX = ".bin"
PROTOCOL = 4  # read by every Python 3


def read_bin(path: Path) -> PairList:
    """Read a verification set, without running code from the file.

    Images that occur several times are kept once. The people are unknown.

    Raises:
        ValueError: the file cannot be read, or is not a verification set.
    """
    images, same = _contents(path)
    if len(images) != 2 * len(same):
        raise ValueError(
            f"{path}: there must be two images a pair, got {len(images)} images and {len(same)} pairs"
        )
    check_both_kinds(same, path)
    number: dict[bytes, int] = {}
    positions: list[int] = []
    for position, image in enumerate(images):
        if number.setdefault(image, len(number)) == len(positions):
            positions.append(position)
    names = [f"{path}, image {position}" for position in positions]
    index = np.array([number[image] for image in images])
    return PairList(
        EncodedImages(list(number), names),
        index[::2],
        index[1::2],
        same,
        contiguous_folds(len(same)),
    )


def _contents(path: Path) -> tuple[list[bytes], np.ndarray]:
    """The encoded images of a set, and whether each pair shows one person."""
    try:
        with readable(path):
            images, same = _two(read_pickle(path.read_bytes()))
        return _images(_items(images)), _truths(same)
    except RefusedPickle as error:
        raise ValueError(
            f"{path} is not a verification set, which is a pickle of (images, same): {error}"
        ) from None


def find_sets(names: str, folder: Path | None) -> list[Path]:
    """Find the files of a list such as "lfw.bin,cfp_fp.bin,agedb_30.bin".

    Args:
        names: paths or file names, separated by commas.
        folder: where to look for a name that is not a path, usually the folder of the training
            images; or a file in that folder.

    Raises:
        ValueError: a file is in neither place.
    """
    paths = []
    if folder is not None and folder.is_file():
        folder = folder.parent
    for name in filter(None, (name.strip() for name in names.split(","))):
        places = [Path(name)] if folder is None else [Path(name), folder / name]
        found = [place for place in places if place.is_file()]
        if not found:
            raise ValueError(f"there is no {' and no '.join(map(str, places))}")
        paths.append(found[0])
    return paths


def write_bin(pairs: PairList, path: Path) -> bool:
    """Write pairs as a verification set, fold by fold; images are copied as they are encoded.

    Returns:
        Whether the folds stay the same: a .bin has ten contiguous folds, as equal as possible.

    Raises:
        ValueError: `path` exists, lies in no folder, or does not end in .bin.
        UnreadableImage: an image cannot be decoded.
    """
    _refuse_place(path)
    for i in range(len(pairs.images)):
        pairs.images.image(i)
    data = [pairs.images.encoded(i) for i in range(len(pairs.images))]
    order = np.argsort(pairs.fold, kind="stable")
    images = [data[i] for p in order for i in (pairs.first[p], pairs.second[p])]
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            pickle.dump((images, pairs.same[order].tolist()), file, protocol=PROTOCOL)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    folds = np.unique(pairs.fold[order], return_inverse=True)[1]
    return np.array_equal(folds, contiguous_folds(len(pairs)))


def _refuse_place(path: Path) -> None:
    """Raise ValueError where no set can be written, or none would be read."""
    if path.suffix.lower() != SUFFIX:
        raise ValueError(f"{path} must end in {SUFFIX}: a set is known by that")
    if path.exists():
        raise ValueError(f"{path} exists already; give another name")
    if not path.parent.is_dir():
        raise ValueError(f"the folder of {path} does not exist; make it first")


def _items(value: Any) -> list | tuple:
    if isinstance(value, Array):
        return value.items()
    if not isinstance(value, list | tuple):
        raise RefusedPickle(f"a {type(value).__name__} in place of a list")
    return value


def _two(value: Any) -> tuple[Any, Any]:
    items = _items(value)
    if len(items) != 2:
        raise RefusedPickle(f"it has {len(items)} parts instead of 2")
    return items[0], items[1]


def _images(items: list | tuple) -> list[bytes]:
    """The encoded images; one that occurs several times is copied once."""
    buffers = [_image(item) for item in items]
    distinct = {id(buffer): buffer for buffer in buffers}
    data = {key: bytes(buffer) for key, buffer in distinct.items()}
    return [data[id(buffer)] for buffer in buffers]


def _image(item: Any) -> bytes | bytearray:
    """The bytes of an item, as the pickle holds them."""
    if isinstance(item, Array):
        values = item.values()
        if values.dtype != np.uint8:
            raise RefusedPickle(f"an image is an array of {values.dtype} instead of uint8")
        item = item.data
    if not isinstance(item, bytes | bytearray):
        raise RefusedPickle(f"a {type(item).__name__} in place of an image")
    return item


def _truths(value: Any) -> np.ndarray:
    items = _items(value)
    if not all(isinstance(item, int) and item in (0, 1) for item in items):
        raise RefusedPickle("whether a pair is of one person must be True or False")
    return np.array(items, bool)
