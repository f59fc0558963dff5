"""Embeddings of a teacher in a file, so that later epochs and runs do not compute them again.

    256 bytes                     a line of JSON: the teacher, and the dimension of its embeddings
    then rows of 24 + 4 D bytes   key of the image, digest of the row, embedding (D) float32

The key is a digest of the image as the network sees it, after augmentation. So seed, epoch and source of
the image do not matter.
"""

import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from fusedface.data.sources.reading import readable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMAT, VERSION = "fusedface-teacher-embeddings", 1
HEADER, KEY, DIGEST = 256, 16, 8  # bytes


def image_key(image: np.ndarray) -> bytes:
    """A digest of 16 bytes of an image (H, W, 3) uint8."""
    digest = blake2b(str(image.shape).encode(), digest_size=KEY)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


class EmbeddingCache:
    """A memory-mapped file of embeddings, to which several processes may add.

    Args:
        path: path of the file; the first `add` makes it and its folder.
        teacher: text that identifies the teacher and its preprocessing, such as the hash of a file.
        dim: D.

    Raises:
        ValueError: the file is damaged, or of another teacher; the message names it.
    """

    def __init__(self, path: Path, teacher: str, dim: int) -> None:
        self.path = path
        said = {"format": FORMAT, "version": VERSION, "teacher": teacher, "dim": dim}
        self._header = json.dumps(said).encode().ljust(HEADER - 1) + b"\n"
        self._row = np.dtype(
            [("key", f"V{KEY}"), ("digest", f"V{DIGEST}"), ("embedding", "<f4", (dim,))]
        )
        self._rows: np.ndarray = np.empty(0, self._row)
        self._found: dict[bytes, int] = {}
        self._mapped = 0
        self._map()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: bytes) -> np.ndarray | None:
        """The embedding (D,) float32 of an image; None if the file has none.

        Raises:
            ValueError: it is damaged.
        """
        index = self._found.get(key)
        if index is None:
            return None
        row = self._rows[index]
        embedding = row["embedding"]
        is_whole = row["digest"].tobytes() == _digest(key, embedding)
        if not is_whole or not np.isfinite(embedding).all():
            raise self._damaged(f"row {index}")
        return embedding

    def add(self, keys: Sequence[bytes], embeddings: np.ndarray) -> None:
        """Append embeddings (B, D) float32 to the file.

        Raises:
            OSError: they cannot be written.
        """
        rows = np.empty(len(keys), self._row)
        rows["embedding"] = embeddings
        for row, key in zip(rows, keys, strict=True):
            row["key"], row["digest"] = key, _digest(key, row["embedding"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            if fcntl is not None:  # the lock ends when the file is closed
                fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, 2)
            whole = HEADER + max(size - HEADER, 0) // self._row.itemsize * self._row.itemsize
            file.truncate(min(size, whole) if size >= HEADER else 0)  # what a full disk cut short
            file.write((self._header if size < HEADER else b"") + rows.tobytes())
        self._map()

    def _map(self) -> None:
        """Map the file at its current length, and index the new rows."""
        with readable(self.path):
            if not self.path.exists():
                return
            size = self.path.stat().st_size
            with self.path.open("rb") as file:
                header = file.read(HEADER)
        if size < HEADER and self._header.startswith(header):
            return  # what a full disk cut short; `add` writes it again
        if header != self._header:
            raise self._damaged("its first line")
        count = (size - HEADER) // self._row.itemsize
        if count <= self._mapped:
            return
        self._rows = np.memmap(self.path, self._row, "r", HEADER, (count,))
        keys = self._rows["key"][self._mapped :].tobytes()
        for number, index in enumerate(range(self._mapped, count)):
            self._found.setdefault(keys[number * KEY : (number + 1) * KEY], index)
        self._mapped = count

    def _damaged(self, what: str) -> ValueError:
        return ValueError(
            f"{self.path} is damaged, or no cache of this teacher ({what}); remove it, and it is made again"
        )


def _digest(key: bytes, embedding: np.ndarray) -> bytes:
    return blake2b(key + embedding.tobytes(), digest_size=DIGEST).digest()
