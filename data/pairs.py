"""Verification pairs: LFW's pairs.txt, "path path same fold" lists, and pairs of a source."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusedface.data.sources import IMAGE_SUFFIXES, FaceSource, inside_path, read_image, read_lines

SHOWN_PROBLEMS = 5  # of a list with many
TRUE, FALSE = frozenset({"1", "true"}), frozenset({"0", "-1", "false"})


class ImageFiles:
    """Images to be compared, by path; `identities` numbers the people where the list tells them."""

    def __init__(self, root: Path, paths: Sequence[str], identities: Sequence[str] | None) -> None:
        self.root, self.paths = root, list(paths)
        self.identities = (
            None if identities is None else np.unique(identities, return_inverse=True)[1]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB.

        Raises:
            UnreadableImage: it cannot be decoded.
        """
        return read_image(self.root / self.paths[index])


class SourceImages:
    """Some images of a source, to be compared."""

    def __init__(self, source: FaceSource, indices: np.ndarray) -> None:
        self.source, self.indices = source, indices
        self.identities = getattr(source, "true_labels", source.labels)[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB."""
        return self.source.image(int(self.indices[index]))


@dataclass(frozen=True)
class PairList:
    """P pairs of images in folds.

    Args:
        images: each image once; `identities` (N,) of them, or None where unknown.
        first, second: (P,) int64, indices into `images`.
        same: (P,) bool.
        fold: (P,) int64, 0, 1, ...
    """

    images: ImageFiles | SourceImages
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray

    def __len__(self) -> int:
        return len(self.same)


def from_index_pairs(
    source: FaceSource, first: np.ndarray, second: np.ndarray, same: np.ndarray, fold: np.ndarray
) -> PairList:
    """Pairs of images of a source, given by their indices in it; all (P,)."""
    used, inverse = np.unique(np.concatenate([first, second]), return_inverse=True)
    left, right = inverse[: len(first)], inverse[len(first) :]
    return PairList(
        SourceImages(source, used), left, right, np.asarray(same, bool), np.asarray(fold)
    )


def read_pairs(path: str | Path, root: str | Path | None = None) -> PairList:
    """Read a pair list, LFW's format or "path path same fold" (spaces, tabs or CSV, header or none).

    LFW's: a first line "folds<TAB>n", then for each fold n lines "name i j" and n lines
    "name i name j"; image i of a name is name/name_%04d with any image suffix.

    Args:
        path: the list.
        root: the folder its paths start from; without it the list's own folder.

    Raises:
        ValueError: the list is malformed, disagrees with its header, leaves `root` or names images
            that are not there; file and line are named.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    if not root.is_dir():
        raise ValueError(f"the folder of the images of {path.name}, {root}, does not exist")
    rows = [(number, fields) for number, fields in _rows(path) if fields]
    if not rows:
        raise ValueError(f"{path} is empty; expected pairs")
    is_lfw = len(rows[0][1]) in (1, 2) and all(field.isdigit() for field in rows[0][1])
    pairs = _lfw(path, root, rows) if is_lfw else _plain(path, root, rows)
    return _assemble(path, root, pairs)


@dataclass(frozen=True)
class _Pair:
    line: int
    one: str
    other: str
    same: bool
    fold: int


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Line numbers and fields."""
    lines = read_lines(path)
    if path.suffix.lower() == ".csv":
        return [(n, [f.strip() for f in row]) for n, row in enumerate(csv.reader(lines), start=1)]
    tabs = sum("\t" in line for line in lines) > len(lines) // 2
    return [(n, line.strip().split("\t" if tabs else None)) if line.strip() else (n, [])
            for n, line in enumerate(lines, start=1)]  # fmt: skip


def _plain(path: Path, root: Path, rows: list[tuple[int, list[str]]]) -> list[_Pair]:
    if rows[0][1][2:3] and rows[0][1][2].lower() not in TRUE | FALSE:
        rows = rows[1:]  # a header
    pairs = []
    for number, fields in rows:
        where = f"{path}:{number}"
        if len(fields) != 4 or fields[2].lower() not in TRUE | FALSE or not fields[3].isdigit():
            shown = " ".join(fields)[:80]
            raise ValueError(
                f"{where}: expected 'path path same fold', same 0 or 1 and fold 0, 1, ..., got {shown!r}"
            )
        one, other = (inside_path(field, root, where) for field in fields[:2])
        pairs.append(_Pair(number, one, other, fields[2].lower() in TRUE, int(fields[3])))
    return pairs


def _lfw(path: Path, root: Path, rows: list[tuple[int, list[str]]]) -> list[_Pair]:
    header = [int(field) for field in rows[0][1]]
    num_folds, per_fold = header if len(header) == 2 else (1, header[0])
    expected = 2 * num_folds * per_fold
    if len(rows) - 1 != expected:
        raise ValueError(
            f"{path}: the header promises {num_folds} folds of {per_fold} + {per_fold} pairs, "
            f"{expected} in all, but {len(rows) - 1} lines follow"
        )
    finder = _LfwFiles(root)
    pairs = []
    for i, (number, fields) in enumerate(rows[1:]):
        where = f"{path}:{number}"
        same = len(fields) == 3
        numbers = fields[1:] if same else fields[1::2]
        if len(fields) not in (3, 4) or not all(field.isdigit() for field in numbers):
            shown = " ".join(fields)[:80]
            raise ValueError(f"{where}: expected 'name i j' or 'name i name j', got {shown!r}")
        names = (fields[0], fields[0]) if same else (fields[0], fields[2])
        one, other = (finder.find(n, int(k), where) for n, k in zip(names, numbers, strict=True))
        pairs.append(_Pair(number, one, other, same, i // (2 * per_fold)))
    return pairs


class _LfwFiles:
    """Finds name/name_0001.* below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._suffixes: dict[str, dict[str, str]] = {}

    def find(self, name: str, number: int, where: str) -> str:
        inside_path(name, self.root, where)
        if name not in self._suffixes:
            folder = self.root / name
            files = folder.iterdir() if folder.is_dir() else ()
            known = (f for f in files if f.suffix.lower() in IMAGE_SUFFIXES)
            self._suffixes[name] = {f.stem: f.suffix for f in known}
        stem = f"{name}_{number:04d}"
        return f"{name}/{stem}{self._suffixes[name].get(stem, '.jpg')}"


def _assemble(path: Path, root: Path, pairs: list[_Pair]) -> PairList:
    paths = sorted({p for pair in pairs for p in (pair.one, pair.other)})
    missing = {p for p in paths if not (root / p).is_file()}
    if missing:
        lines = [f"line {p.line}: {q}" for p in pairs for q in (p.one, p.other) if q in missing]
        shown = "\n  ".join(lines[:SHOWN_PROBLEMS])
        raise ValueError(
            f"{path}: {len(missing)} of {len(paths)} images are not below {root}:\n  {shown}"
        )
    number = {p: i for i, p in enumerate(paths)}
    same = np.array([pair.same for pair in pairs])
    if same.all() or not same.any():
        kind = "same" if same.all() else "different"
        raise ValueError(
            f"{path}: all {len(pairs)} pairs are of {kind} people; both kinds are needed"
        )
    return PairList(
        images=ImageFiles(root, paths, _identities(paths, pairs)),
        first=np.array([number[pair.one] for pair in pairs]),
        second=np.array([number[pair.other] for pair in pairs]),
        same=same,
        fold=np.array([pair.fold for pair in pairs]),
    )


def _identities(paths: list[str], pairs: list[_Pair]) -> list[str] | None:
    """The folder of each image as its identity, or None where the list contradicts that."""
    folder = {p: str(Path(p).parent) for p in paths}
    agrees = all((folder[pair.one] == folder[pair.other]) == pair.same for pair in pairs)
    return [folder[p] for p in paths] if agrees else None
