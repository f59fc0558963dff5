"""Image files as a source of faces: a folder per identity, or a list file."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fusedface.data.sources.base import FaceSource, probe
from fusedface.data.sources.images import (
    FOREIGN_SUFFIXES,
    files_below,
    is_image_name,
    printable,
    read_encoded,
    read_image,
)
from fusedface.data.sources.text_files import inside_path, read_lines


class FileSource(FaceSource):
    """Image files with labels, from a folder or a list file.

    Args:
        root: the folder that the paths are relative to.
        paths: relative to `root`.
        names: the identity of each path; classes are the sorted distinct names.
        notes: messages for the user on files that were left out.

    Raises:
        ValueError: there are fewer than two identities, or none of the first images can be decoded.
    """

    def __init__(
        self, root: Path, paths: Sequence[str], names: Sequence[str], notes: Sequence[str] = ()
    ) -> None:
        self.root, self.notes = root, tuple(notes)
        classes = sorted(set(names))
        self.class_names = [printable(name) for name in classes]
        if len(classes) < 2:
            only = f" (only {self.class_names[0]!r})" if classes else ""
            raise ValueError(f"{root} must hold at least 2 identities, found {len(classes)}{only}")
        number = {name: i for i, name in enumerate(classes)}
        self.labels = np.array([number[name] for name in names], dtype=np.int64)
        # One array of bytes, not a list of objects: workers share it without copying page by page.
        self._paths = np.array([os.fsencode(path) for path in paths])
        probe(self, root)

    def folder(self) -> Path:
        """The root."""
        return self.root

    def files(self, indices: Sequence[int] | np.ndarray | None = None) -> Iterator[Path]:
        """One file per image."""
        return (self.path(int(i)) for i in (range(len(self)) if indices is None else indices))

    def people(self) -> set[str]:
        """The names of the classes, and of the folders of the images."""
        folders = {os.path.basename(os.path.dirname(os.fsdecode(path))) for path in self._paths}
        return {*self.class_names, *map(printable, folders)} - {""}

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.root / os.fsdecode(bytes(self._paths[index]))

    def image(self, index: int) -> np.ndarray:
        """See `Images`."""
        return read_image(self.path(index))

    def describe(self, index: int) -> str:
        """The path."""
        return str(self.path(index))

    def encoded(self, index: int) -> bytes:
        """The bytes of the image file."""
        return read_encoded(self.path(index))


def open_folder(root: Path) -> FileSource:
    """Open a folder with a folder per identity, at any depth; what is hidden and links out are left out.

    Raises:
        ValueError: it holds no images, or images of fewer than two identities.
    """
    paths, names, foreign = [], [], Counter[str]()
    identities = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    inside = root.resolve()
    for identity in identities:
        for path in files_below(identity):
            if is_image_name(path) and inside in path.resolve().parents:
                paths.append(str(path.relative_to(root)))
                names.append(identity.name)
            elif path.suffix.lower() in FOREIGN_SUFFIXES:
                foreign[path.suffix.lower()] += 1
    if not paths:
        found = f" (it holds {_foreign(foreign)})" if foreign else ""
        raise ValueError(
            f"{root} holds no images in folders of identities{found}; expected files such as "
            f"{root / 'some_name' / 'photo.jpg'}"
        )
    notes = [f"{root}: left out {_foreign(foreign)}"] if foreign else []
    return FileSource(root, paths, names, notes)


def _foreign(counts: Counter[str]) -> str:
    """Files of other formats, and what to do about them."""
    kinds = " and ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common())
    return f"{kinds} files, which are not read: convert them to PNG or JPEG"


def open_list(path: Path, root: Path | None = None) -> FileSource:
    """Open a list file: one line "path label" per image, paths relative to its folder or to `root`.

    Args:
        path: the list, UTF-8; empty lines and lines that begin with # are left out.
        root: the folder that the paths are relative to; by default the list's own.

    Raises:
        ValueError: a line is malformed or leaves the folder (the message names file and line), or as
            `FileSource`.
    """
    root = path.parent if root is None else root
    paths, names = [], []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.rsplit(maxsplit=1)
        if len(parts) != 2:
            raise ValueError(f"{path}:{number}: expected 'path label', got {line.strip()[:80]!r}")
        image, label = parts
        paths.append(inside_path(image.strip(), root, f"{path}:{number}"))
        names.append(label.zfill(10) if label.isdigit() else label)  # numbers sort as numbers
    if not paths:
        raise ValueError(f"{path} lists no images; expected lines of 'path label'")
    return FileSource(root, paths, names)
