"""What a checkpoint says of the files with its class centres, and whether these files are whole.

A run on several processes writes no class centre into the checkpoint itself. Each process writes its own
to a file next to it (`models/shard_writer.py`), and the checkpoint describes these files:

    "shards": {"folder": "step-00000100.centres",
               "files": {"__0_0.distcp": "SHA-256", ...},
               "tensors": {"weight": {"dtype": "float32", "size": [C, D],
                                      "parts": [[first row, rows, file, offset, length], ...]},
                           "momentum_buffer": ...}}
"""

import re
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

SHARDS = "shards"
"""The entry of a checkpoint that describes the files."""
SUFFIX = ".centres"
"""Of the folder with the files, which lies next to the checkpoint."""
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
}
LARGEST = 2**62


class Part(NamedTuple):
    """Some rows of a tensor, in `length` bytes of a file."""

    first: int
    rows: int
    file: str
    offset: int
    length: int


class SavedTensor(NamedTuple):
    """A tensor (C, D) whose rows lie in several files."""

    dtype: torch.dtype
    size: tuple[int, int]
    parts: list[Part]


@dataclass(frozen=True)
class ShardFiles:
    """The files with the class centres of one checkpoint, and the state of their optimiser.

    Attributes:
        path: the checkpoint.
        folder: where the files are.
        files: SHA-256 of each file, by name.
        tensors: what the files hold: "weight", and state such as "momentum_buffer".
    """

    path: Path
    folder: Path
    files: dict[str, str]
    tensors: dict[str, SavedTensor]

    @classmethod
    def of(cls, path: Path, content: dict[Any, Any]) -> Self | None:
        """Read the description in a checkpoint; None if the checkpoint holds its class centres itself.

        Raises:
            ValueError: the description is damaged, or names files outside its folder.
        """
        if SHARDS not in content:
            return None
        try:
            return cls(path, *_described(path.parent, content[SHARDS]))
        except (TypeError, ValueError, LookupError, AttributeError):
            raise ValueError(
                f"{path}: its entry {SHARDS!r} does not describe class centres in files"
            ) from None

    def check(self, which: slice = slice(None)) -> None:
        """Check that these files are there and whole.

        Args:
            which: the files to check, in the order of their names.

        Raises:
            ValueError: a file is missing or damaged; the message names it.
            OSError: a file cannot be read now; it may be whole.
        """
        for name in sorted(self.files)[which]:
            self.check_file(name)

    def check_file(self, name: str) -> None:
        """Check the file of this name; raises as `check`."""
        path = self.folder / name
        try:
            digest = digest_of(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ValueError(
                f"{self.path} lacks class centres: cannot read {path}: {error.strerror}"
            ) from None
        except OSError as error:
            raise OSError(f"cannot read {path}: {error.strerror}") from error
        if digest != self.files[name]:
            raise ValueError(
                f"{self.path} has damaged class centres: {path} is not as it was written"
            )
        held = [p for saved in self.tensors.values() for p in saved.parts if p.file == name]
        size = path.stat().st_size
        # Not twice the same bytes: what is read takes no more memory than the files.
        if sum(part.length for part in held) > size or any(
            part.offset + part.length > size for part in held
        ):
            raise ValueError(f"{self.path} describes more class centres than {path} has bytes for")


def digest_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits; raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _described(
    parent: Path, entry: dict[str, Any]
) -> tuple[Path, dict[str, str], dict[str, SavedTensor]]:
    """The folder, files and tensors of an entry; anything may be wrong with it, so any error may come."""
    name, files = entry["folder"], entry["files"]
    tensors = {name: _tensor(values) for name, values in entry["tensors"].items()}
    fits = (
        _is_name(name, rf"[\w-]+\{SUFFIX}")
        and all(_is_name(file, r"__\d+_\d+\.distcp") for file in files)
        and all(_is_name(digest, "[0-9a-f]{64}") for digest in files.values())
        and all(type(key) is str for key in tensors)
        and {part.file for saved in tensors.values() for part in saved.parts} == set(files)
        and "weight" in tensors
    )
    if not fits:
        raise ValueError("a name or a digest is not one")
    return parent / name, dict(files), tensors


def _tensor(values: dict[str, Any]) -> SavedTensor:
    """The description of one tensor; raises ValueError unless its parts hold each row once."""
    num_rows, dim = values["size"]
    dtype = DTYPES[values["dtype"]]
    parts = [Part(*part) for part in values["parts"]]
    numbers = [num_rows, dim, *(number for part in parts for number in (*part[:2], *part[3:]))]
    if not all(type(number) is int and 0 <= number < LARGEST for number in numbers):
        raise ValueError("a size is not a size")
    row = 0
    for part in sorted(parts):
        # The bytes are there, so no memory is taken for rows that nobody wrote.
        if part.first != row or part.rows < 1 or part.length < part.rows * dim * dtype.itemsize:
            raise ValueError("the parts do not hold each row once")
        row += part.rows
    if row != num_rows or dim < 1:
        raise ValueError("the parts do not hold all rows")
    return SavedTensor(dtype, (num_rows, dim), parts)


def _is_name(value: object, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) is not None
