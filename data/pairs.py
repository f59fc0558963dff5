"""Pair lists: LFW's pairs.txt, the lists of CPLFW and CALFW, "path path same fold", and .bin files."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusedface.data.pair_list import NUM_FOLDS, ImageFiles, PairList, check_both_kinds
from fusedface.data.sources.images import IMAGE_SUFFIXES
from fusedface.data.sources.text_files import inside_path, read_lines
from fusedface.data.verification_bins import SUFFIX, read_bin

SHOWN_PROBLEMS = 5  # of a list with many
SHOWN_CHARACTERS = 200  # of a path
MAX_DIGITS = 9  # of a number in a list
TRUE, FALSE = frozenset({"1", "true"}), frozenset({"0", "-1", "false"})


def read_pairs(path: str | Path, root: str | Path | None = None) -> PairList:
    """Read verification pairs of any kind; spaces, tabs or, in a .csv, commas separate fields.

        path path same fold    one line per pair, same 0 or 1, fold 0, 1, ...; with or without a header
        LFW                    "folds<TAB>n", then for each fold n lines "name i j" and n lines
                               "name i name j"; image i is name/name_%04d with any image suffix
        CPLFW, CALFW           two lines per pair, "path flag", flag 0 if the people differ; ten folds
                               in their order, with equal shares of both kinds
        .bin                   see `read_bin`

    Args:
        path: the list.
        root: the folder its paths are relative to, by default the list's own. A .bin needs none.

    Raises:
        ValueError: the list is malformed, disagrees with its header, leaves `root` or names images that
            do not exist; the message names file and line.
    """
    path = Path(path)
    if path.suffix.lower() == SUFFIX:
        return read_bin(path)
    root = path.parent if root is None else Path(root)
    if not root.is_dir():
        raise ValueError(f"the folder of the images of {path.name}, {root}, does not exist")
    rows = [(number, fields) for number, fields in _rows(path) if fields]
    if not rows:
        raise ValueError(f"{path} is empty; expected pairs")
    first = rows[0][1]
    if len(first) in (1, 2) and all(_is_number(field) for field in first):
        pairs = _lfw(path, root, rows)
    elif len(first) == 2:
        pairs = _two_lines(path, root, rows)
    else:
        pairs = _plain(path, root, rows)
    return _assemble(path, root, pairs)


def _is_number(field: str) -> bool:
    return field.isascii() and field.isdigit() and len(field) <= MAX_DIGITS


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
        return _csv_rows(path, lines)
    tabs = sum("\t" in line for line in lines) > len(lines) // 2
    return [(n, line.strip().split("\t" if tabs else None)) if line.strip() else (n, [])
            for n, line in enumerate(lines, start=1)]  # fmt: skip


def _csv_rows(path: Path, lines: list[str]) -> list[tuple[int, list[str]]]:
    try:
        return [(n, [f.strip() for f in r]) for n, r in enumerate(csv.reader(lines), start=1)]
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from None


def _plain(path: Path, root: Path, rows: list[tuple[int, list[str]]]) -> list[_Pair]:
    if _is_header(rows[0][1]):
        rows = rows[1:]
    pairs = []
    for number, fields in rows:
        where = f"{path}:{number}"
        if len(fields) != 4 or fields[2].lower() not in TRUE | FALSE or not _is_number(fields[3]):
            shown = " ".join(fields)[:80]
            raise ValueError(
                f"{where}: expected 'path path same fold', same 0 or 1 and fold 0, 1, ..., got {shown!r}"
            )
        one, other = (inside_path(field, root, where) for field in fields[:2])
        pairs.append(_Pair(number, one, other, fields[2].lower() in TRUE, int(fields[3])))
    return pairs


def _is_header(fields: list[str]) -> bool:
    """Whether a first line has names; a pair with a fault in it ends in the number of its fold."""
    return len(fields) > 2 and fields[2].lower() not in TRUE | FALSE and not _is_number(fields[-1])


def _two_lines(path: Path, root: Path, rows: list[tuple[int, list[str]]]) -> list[_Pair]:
    for number, fields in rows:
        if len(fields) != 2 or not _is_number(fields[1]):
            shown = " ".join(fields)[:80]
            raise ValueError(
                f"{path}:{number}: expected 'path flag', two lines a pair, got {shown!r}"
            )
    if len(rows) % 2:
        raise ValueError(f"{path}: expected two lines a pair, got {len(rows)}, an odd number")
    halves = list(zip(rows[::2], rows[1::2], strict=True))
    same = [int(one[1][1]) != 0 for one, _ in halves]
    totals, seen = {kind: same.count(kind) for kind in (True, False)}, {True: 0, False: 0}
    pairs = []
    for (number, one), (next_number, other) in halves:
        if one[1] != other[1]:
            raise ValueError(
                f"{path}:{next_number}: the flag must be that of line {number}, {one[1]}, got {other[1]}"
            )
        kind = int(one[1]) != 0
        first = inside_path(one[0], root, f"{path}:{number}")
        second = inside_path(other[0], root, f"{path}:{next_number}")
        pairs.append(_Pair(number, first, second, kind, seen[kind] * NUM_FOLDS // totals[kind]))
        seen[kind] += 1
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
        if len(fields) not in (3, 4) or not all(_is_number(field) for field in numbers):
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
    missing = {p for p in paths if not _is_file(root / p)}
    if missing:
        lines = [
            f"line {p.line}: {q[:SHOWN_CHARACTERS]}"
            for p in pairs
            for q in (p.one, p.other)
            if q in missing
        ]
        shown = "\n  ".join(lines[:SHOWN_PROBLEMS])
        raise ValueError(
            f"{path}: {len(missing)} of {len(paths)} images are not below {root}:\n  {shown}"
        )
    number = {p: i for i, p in enumerate(paths)}
    same = np.array([pair.same for pair in pairs])
    check_both_kinds(same, path)
    return PairList(
        images=ImageFiles(root, paths, _identities(paths, pairs)),
        first=np.array([number[pair.one] for pair in pairs]),
        second=np.array([number[pair.other] for pair in pairs]),
        same=same,
        fold=np.array([pair.fold for pair in pairs]),
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is too long
        return False


def _identities(paths: list[str], pairs: list[_Pair]) -> list[str] | None:
    """The folder of each image as its identity, or None if the list contradicts that."""
    folder = {p: str(Path(p).parent) for p in paths}
    agrees = all((folder[pair.one] == folder[pair.other]) == pair.same for pair in pairs)
    return [folder[p] for p in paths] if agrees else None
