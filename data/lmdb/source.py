"""An LMDB file as a source of faces: keys "0", "1", ... are images, three others describe the set.

    __len__        how many images                    __classnum__   how many people
    __keys__       the keys of the images, in order; not needed here

This is the layout of Vec2Face and Vec2Face+ (HSFace10K, VFace100K, ...), as imagelist2lmdb.py of
HaiyuWu/SOTA-Face-Recognition-Train-and-Test writes it. A record has its label after its image, so
opening a file reads every record.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fusedface.data.lmdb.database import Database, Entry
from fusedface.data.lmdb.values import read_labelled_image, read_number
from fusedface.data.sources.images import MAX_IMAGE_BYTES, UnreadableImage
from fusedface.data.sources.packed import PackedFaces
from fusedface.data.sources.records import BadRecord, left_out

LENGTH, CLASSES, KEYS = b"__len__", b"__classnum__", b"__keys__"
MAX_DIGITS = 18  # of a key; int64 holds them
MAX_LABEL = 1 << 31


class LmdbSource(PackedFaces):
    """The images of a file, by key; read at random from any number of processes.

    Args:
        database: the file.
        images: their places in the file.
        labels: (N,) int64, as in the file.
        notes: messages for the user.

    Raises:
        ValueError: there are fewer than two identities, or none of the first images can be decoded.
    """

    def __init__(
        self,
        database: Database,
        images: Sequence[Entry],
        labels: np.ndarray,
        notes: Sequence[str] = (),
    ) -> None:
        self.database, self.notes = database, tuple(notes)
        # Arrays, not objects: workers share them without copying page by page.
        self._keys = np.array([int(entry.key) for entry in images], np.int64)
        self._offsets = np.array([entry.offset for entry in images], np.int64)
        self._sizes = np.array([entry.size for entry in images], np.int64)
        super().__init__(database.path, labels)

    def encoded(self, index: int) -> bytes:
        """The image as the file holds it.

        Raises:
            UnreadableImage: its record is broken, or had another label when the file was opened.
        """
        key, offset, size = (int(of[index]) for of in (self._keys, self._offsets, self._sizes))
        try:
            image, label = _record(self.database, Entry(b"%d" % key, offset, size))
        except BadRecord as error:
            raise UnreadableImage(self.describe(index), error.reason) from None
        expected = self.file_labels[self.labels[index]]
        if label != expected:
            reason = f"its label is {label}, it was {expected} when the file was opened"
            raise UnreadableImage(self.describe(index), reason)
        return image

    def files(
        self,
        indices: Sequence[int] | np.ndarray | None = None,  # noqa: ARG002  all lie in one
    ) -> Iterator[Path]:
        """The file, for any images."""
        return iter((self.database.path,))

    def describe(self, index: int) -> str:
        """File, key and byte offset."""
        return f"{self.database.path}: key {self._keys[index]}, byte {self._offsets[index]}"


def lmdb_file(path: Path) -> Path | None:
    """The file of an LMDB set, given as that file or as a folder with data.mdb; else None."""
    if path.suffix in (".lmdb", ".mdb") and path.is_file():
        return path
    inside = path / "data.mdb"
    return inside if inside.is_file() else None


def open_lmdb(path: str | Path, *, skip_bad: bool = False) -> LmdbSource:
    """Open an LMDB file of faces.

    Args:
        path: the file (.lmdb, .mdb), or a folder with data.mdb.
        skip_bad: leave out images whose records are broken; `notes` counts and lists them.

    Raises:
        ValueError: it is not an LMDB file, is damaged, or holds other values than labelled images; the
            message names file, key and byte offset.
    """
    file = lmdb_file(Path(path))
    if file is None:
        raise ValueError(
            f"{path} is not an LMDB file; give a .lmdb or .mdb file, or a folder with data.mdb"
        )
    database = Database(file)
    found, described = _sort(database)
    promised = {key: _number(database, described[key]) for key in (LENGTH, CLASSES)}
    images, labels, bad = _labelled(database, found, skip_bad)
    notes = [
        *left_out(bad),
        *_differences(file, "images", promised[LENGTH], len(found)),
        *_differences(file, "people", promised[CLASSES], len(set(labels))),
    ]
    return LmdbSource(database, images, np.array(labels, np.int64), notes)


def _labelled(
    database: Database, found: Sequence[Entry], skip_bad: bool
) -> tuple[list[Entry], list[int], list[BadRecord]]:
    """The entries with whole records, their labels, and the faults of the others."""
    images: list[Entry] = []
    labels: list[int] = []
    bad: list[BadRecord] = []
    for entry in found:
        try:
            labels.append(_record(database, entry)[1])
            images.append(entry)
        except BadRecord as error:
            if not skip_bad:
                raise
            bad.append(error)
    return images, labels, bad


def _sort(database: Database) -> tuple[list[Entry], dict[bytes, Entry]]:
    """The entries of the images by number, and the entries that describe the set."""
    images: list[Entry] = []
    described: dict[bytes, Entry] = {}
    for entry in database.entries():
        if entry.key.isdigit() and len(entry.key) <= MAX_DIGITS:
            images.append(entry)
        elif entry.key in (LENGTH, CLASSES, KEYS):
            described[entry.key] = entry
        else:
            shown = entry.key[:40].decode("ascii", "backslashreplace")
            raise ValueError(
                f"{database.path}: key {shown!r} is neither a number nor "
                f"{LENGTH.decode()}, {CLASSES.decode()} or {KEYS.decode()}: a set of another layout"
            )
    missing = [key.decode() for key in (LENGTH, CLASSES) if key not in described]
    if missing:
        raise ValueError(
            f"{database.path} has no key {' and no key '.join(missing)}: "
            "a set of another layout, or one whose writing was not finished"
        )
    images.sort(key=lambda entry: int(entry.key))
    return images, described


def _record(database: Database, entry: Entry) -> tuple[bytes, int]:
    """Image file and label.

    Raises:
        BadRecord: the value is something else.
    """
    try:
        if entry.size > MAX_IMAGE_BYTES:
            raise ValueError(f"{entry.size} bytes are too many for an image")  # noqa: TRY301
        image, label = read_labelled_image(database.read(entry))
        if label > MAX_LABEL:
            raise ValueError(f"the label {label} is above {MAX_LABEL}")  # noqa: TRY301
    except ValueError as error:
        path, key = str(database.path), int(entry.key)
        raise BadRecord(path, entry.offset, str(error), key) from None
    return image, label


def _number(database: Database, entry: Entry) -> int:
    try:
        return read_number(database.read(entry))
    except ValueError as error:
        raise ValueError(f"{database.path}: key {entry.key.decode()}: {error}") from None


def _differences(file: Path, what: str, promised: int, found: int) -> list[str]:
    return [] if promised == found else [f"{file} promises {promised} {what}, it has {found}"]
