"""List files: read their lines, and check that paths in them stay in their folder."""

import os
from pathlib import Path

from fusedface.data.sources.reading import readable

MAX_NAME_BYTES = 255  # of a file or folder name, as on nearly all file systems
MAX_PATH_BYTES = 4095  # of a whole path, as on Linux


def inside_path(text: str, root: Path, where: str) -> str:
    """`text` as a path below `root`.

    Raises:
        ValueError: it leads out of `root`; the message begins with `where`, the place of the line.
    """
    try:
        inside, target = root.resolve(), (root / text).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null byte
        raise ValueError(f"{where}: {text[:80]!r} is not a path: {error}") from None
    if any(len(part.encode()) > MAX_NAME_BYTES for part in Path(text).parts):
        raise ValueError(f"{where}: {text[:80]!r}... is too long for a file's name")
    if len(os.fsencode(root / text)) > MAX_PATH_BYTES:
        raise ValueError(f"{where}: {text[:80]!r}... is too long for a path")
    if inside not in target.parents:
        raise ValueError(f"{where}: {text[:80]!r} leads out of {root}; paths must stay below it")
    return text


def read_lines(path: Path) -> list[str]:
    """Lines of a text file.

    Raises:
        ValueError: it cannot be read, or is not UTF-8.
    """
    try:
        with readable(path):
            return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None
