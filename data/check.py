"""Report the content and the faults of a file or folder of faces; every record and every image is read."""

import os
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusedface.data.pair_list import PairList
from fusedface.data.pairs import read_pairs
from fusedface.data.recordio import PackSource
from fusedface.data.recordio.index import read_index
from fusedface.data.source_kinds import open_source
from fusedface.data.sources import BadRecord, FaceSource, Images
from fusedface.data.sources.images import UnreadableImage, decode_image
from fusedface.data.verification_bins import SUFFIX

SHOWN_PROBLEMS = 10  # of each kind
SHOWN_SIZES = 5
CHUNK = 1024  # images in memory at once


@dataclass
class Report:
    """The result of a check: facts as (what, how many), and problems as messages."""

    kind: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check(
    path: Path, root: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Check a pack, a folder, a list file, a pair list or a .bin.

    A text file is a pair list if "pairs" is in its name, else a list file.

    Args:
        path: the file or folder.
        root: the folder that the paths of a pair list are relative to; by default the list's own folder.
        progress: called with the number of images that have been read, and of all images.

    Raises:
        ValueError: it cannot be opened at all.
    """
    is_list = path.is_file() and "pairs" in path.stem.lower()
    if is_list or path.suffix.lower() == SUFFIX:
        return _check_pairs(read_pairs(path, root), path, progress)
    report = Report("labelled images")
    source = _open(path, report)
    report.problems += source.notes
    if isinstance(source, PackSource):
        report.kind = "RecordIO pack"
        _check_records(source, report)
    report.facts += _facts_on_people(source)
    _check_images(source, source.labels, report, progress)
    return report


def _facts_on_people(source: FaceSource) -> list[tuple[str, str]]:
    counts = np.bincount(source.labels)
    return [
        ("people", f"{source.num_classes:,}, with {_range(counts, 'images')}"),
        ("people with one image", f"{(counts == 1).sum():,}"),
    ]


def _open(path: Path, report: Report) -> FaceSource:
    """Open it as training does; if training refuses it, leave out its broken records."""
    try:
        return open_source(path)
    except ValueError as error:
        source = open_source(path, skip_bad=True)
        if not isinstance(error, BadRecord):  # the notes of `source` have those
            report.problems.append(f"refused without --skip-bad: {error}")
        return source


def _check_pairs(
    pairs: PairList, path: Path, progress: Callable[[int, int], None] | None
) -> Report:
    report = Report("verification set" if path.suffix.lower() == SUFFIX else "pair list")
    genuine = int(pairs.same.sum())
    folds = np.unique(pairs.fold, return_counts=True)[1]
    report.facts += [
        ("pairs", f"{len(pairs):,}: {genuine:,} of one person, {len(pairs) - genuine:,} of two"),
        ("folds", f"{len(folds)}, of {_range(folds, 'pairs')}"),
    ]
    _check_images(pairs.images, None, report, progress)
    return report


def _check_records(source: PackSource, report: Report) -> None:
    """Compare the records as they follow each other in the file with those of the index."""
    records = source.records
    try:
        found = np.fromiter(records.offsets(), np.int64)
    except BadRecord as error:
        report.problems.append(f"what follows in the file cannot be found: {error}")
        return
    index = read_index(records.path.with_suffix(".idx"), records.size)
    missing = np.setdiff1d(found, index.offsets)
    report.facts.append(
        ("records", f"{len(found):,}, of which {len(missing):,} are not in the index")
    )


class _Seen(NamedTuple):
    """Digests, sizes and failures of N images."""

    digests: np.ndarray  # (N,) uint64
    sizes: Counter[tuple[int, int]]  # by (H, W), of those that can be read
    unreadable: list[str]


def _check_images(
    images: Images,
    labels: np.ndarray | None,
    report: Report,
    progress: Callable[[int, int], None] | None,
) -> None:
    seen = _look_at(images, progress)
    sizes = [f"{h}x{w}: {count:,}" for (h, w), count in seen.sizes.most_common(SHOWN_SIZES)]
    if len(seen.sizes) > SHOWN_SIZES:
        sizes.append(f"{len(seen.sizes) - SHOWN_SIZES} more sizes")
    _, first, inverse = np.unique(seen.digests, return_index=True, return_inverse=True)
    copies = np.flatnonzero(first[inverse] != np.arange(len(inverse)))
    report.facts += [
        ("images", f"{len(images):,}"),
        ("sizes (height x width)", ", ".join(sizes)),
        ("unreadable images", f"{len(seen.unreadable):,}"),
        ("copies of other images", f"{len(copies):,}"),
    ]
    report.problems += _some("unreadable images", seen.unreadable)
    if labels is not None:
        wrong = copies[labels[copies] != labels[first[inverse[copies]]]]
        report.facts.append(("copies under another person", f"{len(wrong):,}"))
        shown = [
            f"{images.describe(int(i))} is {images.describe(int(first[inverse[i]]))}"
            for i in wrong[:SHOWN_PROBLEMS]
        ]
        report.problems += _some("the same image under two people", shown, len(wrong))


def _look_at(images: Images, progress: Callable[[int, int], None] | None) -> _Seen:
    """Read all images, on all cores: decoders let other threads run."""

    def look(index: int) -> tuple[int, tuple[int, int] | None, str]:
        try:
            data = images.encoded(index)
            digest = int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
            return digest, decode_image(data, images.describe(index)).shape[:2], ""
        except UnreadableImage as error:
            return index, None, str(error)

    digests, sizes, unreadable = array("Q"), Counter(), []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(images), CHUNK):
            for digest, size, problem in pool.map(
                look, range(start, min(start + CHUNK, len(images)))
            ):
                digests.append(digest)
                if size is None:
                    unreadable.append(problem)
                else:
                    sizes[size] += 1
            if progress is not None:
                progress(len(digests), len(images))
    return _Seen(np.array(digests), sizes, unreadable)


def _some(what: str, problems: Sequence[str], total: int | None = None) -> list[str]:
    """One message that counts problems and shows the first; none where there are none."""
    total = len(problems) if total is None else total
    if not total:
        return []
    more = [f"and {total - SHOWN_PROBLEMS:,} more"] if total > SHOWN_PROBLEMS else []
    return [f"{total:,} {what}:\n  " + "\n  ".join([*problems[:SHOWN_PROBLEMS], *more])]


def _range(counts: np.ndarray, unit: str) -> str:
    low, high = int(counts.min()), int(counts.max())
    if low == high:
        return f"{low:,} {unit}"
    return f"{low:,} to {high:,} {unit} (median {np.median(counts):,.0f})"
