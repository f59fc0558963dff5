"""Hash of a file, by which a recipe identifies it."""

from pathlib import Path

from fusedface.data.sources.reading import readable
from fusedface.models.shard_files import digest_of


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits.

    Raises:
        ValueError: it cannot be read.
    """
    with readable(path):
        return digest_of(path)
