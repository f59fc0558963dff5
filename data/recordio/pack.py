"""A RecordIO pack as a source of faces: train.rec, train.idx and, for information, property.

    insightface's packs   keys 1 to N are images; N + 1 to N + M have a record for each identity, with
                          the range of its images' keys; key 0 is the pack's own: (N + 1, N + M + 1)
    similar packs         the same without a record for each identity; key 0 is (N + 1, anything), as
                          insightface's own loader reads it
    im2rec's packs        every key is an image, including 0

Labels and ranges are float32, so ranges beyond 2^24 are rounded; then the image records decide.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fusedface.data.recordio.header import read_record
from fusedface.data.recordio.index import read_index
from fusedface.data.recordio.labels import Images, image_records
from fusedface.data.recordio.records import RecordFile
from fusedface.data.sources.images import UnreadableImage
from fusedface.data.sources.packed import PackedFaces
from fusedface.data.sources.records import BadRecord, left_out


class PackSource(PackedFaces):
    """The images of a pack, by key; read at random from any number of processes.

    Args:
        records: of the .rec file.
        images: the image records and their labels.
        notes: messages for the user on records that were left out.

    Raises:
        ValueError: there are fewer than two identities, or none of the first images can be decoded.
    """

    def __init__(self, records: RecordFile, images: Images, notes: Sequence[str] = ()) -> None:
        self.records, self.notes = records, tuple(notes)
        self.keys, self.offsets = images.keys, images.offsets
        super().__init__(records.path, images.labels)

    def encoded(self, index: int) -> bytes:
        """The image as the pack holds it.

        Raises:
            UnreadableImage: its record is broken, or has another label than the pack says.
        """
        try:
            record = read_record(self.records, int(self.offsets[index]), int(self.keys[index]))
        except BadRecord as error:
            raise UnreadableImage(self.describe(index), error.reason) from None
        expected = self.file_labels[self.labels[index]]
        if record.labels[0] != expected:
            reason = f"its label is {record.labels[0]:g}, but it lies in the range of {expected}"
            raise UnreadableImage(self.describe(index), reason)
        return record.image

    def files(
        self,
        indices: Sequence[int] | np.ndarray | None = None,  # noqa: ARG002  all lie in two
    ) -> Iterator[Path]:
        """The two files of the pack, for any images."""
        return iter((self.records.path, self.records.path.with_suffix(".idx")))

    def describe(self, index: int) -> str:
        """File, key and byte offset."""
        return f"{self.records.path}: key {self.keys[index]}, byte {self.offsets[index]}"


def pack_file(path: Path) -> Path | None:
    """The .rec file of a pack, given as its folder or as that file; else None."""
    if path.suffix == ".rec" and path.is_file():
        return path
    inside = path / "train.rec"
    return inside if inside.is_file() else None


def open_pack(path: str | Path, *, skip_bad: bool = False) -> PackSource:
    """Open a pack.

    Args:
        path: its folder, or the .rec file.
        skip_bad: read the header of every record and leave out broken ones; `notes` counts and lists
            them.

    Raises:
        ValueError: files are missing or disagree; the message names file, key and byte offset.
    """
    file = pack_file(Path(path))
    if file is None:
        raise ValueError(f"{path} is no RecordIO pack: a folder with train.rec, or a .rec file")
    records = RecordFile(file)
    index = read_index(file.with_suffix(".idx"), records.size)
    images = image_records(records, index, skip_bad=skip_bad)
    return PackSource(records, images, [*left_out(images.bad), *_property(file, images)])


def _property(file: Path, images: Images) -> list[str]:
    """How the pack's `property` file, "classes,height,width", disagrees with its records."""
    try:
        with (file.parent / "property").open("rb") as property_file:
            promised = property_file.read(64).split(b",")[0].strip()
    except OSError:
        return []
    found = len(np.unique(images.labels))
    if promised == str(found).encode():
        return []
    shown = promised.decode("ascii", "backslashreplace")
    return [f"{file.parent / 'property'} promises {shown} identities, the pack has {found}"]
