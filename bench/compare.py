"""Comparison of two result files of one benchmark, row by row: faster or slower.

Run: python cli.py bench compare before.json after.json
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fusedface.bench.results import read
from fusedface.bench.rows import Row, Triple


class Figure(NamedTuple):
    """A row's name and its figure with quartiles; None if the row did not run."""

    name: str
    triple: Triple | None


class Change(NamedTuple):
    """A row of both files: `speed` is new over old, so it is above 1 if the row got faster.

    It is `clear` if the quartiles of the two do not overlap.
    """

    name: str
    old: Triple | None
    new: Triple | None
    speed: float | None
    clear: bool


def _kernels(row: dict[str, Any]) -> list[Figure]:
    found = Row.from_dict(row)
    name = f"{found.case} {found.head}"
    return [Figure(name, found.ms.get("both"))]


def _step(row: dict[str, Any]) -> list[Figure]:
    keys = ("model", "head", "num_rows", "num_classes", "size")
    return [Figure(" ".join(str(row[key]) for key in keys), row["images_per_second"])]


def _data(row: dict[str, Any]) -> list[Figure]:
    return [Figure(f"{row['source']}, {row['augmentation']}", row["images_per_second"])]


class _Kind(NamedTuple):
    figures: Callable[[dict[str, Any]], list[Figure]]
    unit: str
    less_is_faster: bool


KINDS = {
    "kernels": _Kind(_kernels, "ms", True),
    "scaling": _Kind(_kernels, "ms", True),
    "step": _Kind(_step, "images/s", False),
    "data": _Kind(_data, "images/s", False),
}


def compare(old: Path, new: Path) -> tuple[str, list[Change]]:
    """The unit of the figures, and the change of each row that either file has.

    Raises:
        ValueError: a file is not a result, the benchmarks differ, or the benchmark has no times.
    """
    before, after = read(old), read(new)
    kind = before["benchmark"]
    if kind != after["benchmark"]:
        raise ValueError(f"{old} is of bench {kind}, {new} of bench {after['benchmark']}")
    if kind not in KINDS:
        raise ValueError(
            f"bench {kind} has no times to compare; give results of {', '.join(KINDS)}"
        )
    figures, unit, less_is_faster = KINDS[kind]
    tables = [
        {f.name: f.triple for row in document["rows"] for f in figures(row)}
        for document in (before, after)
    ]
    names = dict.fromkeys([*tables[0], *tables[1]])
    earlier, later = tables
    changes = [_change(n, earlier.get(n), later.get(n), less_is_faster) for n in names]
    return unit, changes


def _change(name: str, old: Triple | None, new: Triple | None, less_is_faster: bool) -> Change:
    if old is None or new is None:
        return Change(name, old, new, None, clear=True)
    speed = old[1] / new[1] if less_is_faster else new[1] / old[1]
    apart = old[2] < new[0] or new[2] < old[0]
    return Change(name, old, new, speed, apart)
