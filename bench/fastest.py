"""How our head compares with the fastest alternative of the same loss and precision."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fusedface.bench.case import Case
from fusedface.bench.heads.loss import BASE_PRECISIONS
from fusedface.bench.rows import Row


@dataclass(frozen=True)
class Fastest:
    """The fastest alternative to one of our heads on one case.

    `ratio` is its time for forward and backward over ours, median over the rounds.
    """

    case: Case
    loss: str
    precision: str
    name: str
    ratio: float


def fastest(rows: Iterable[Row]) -> list[Fastest]:
    """Of each of our heads that has an alternative, in the order of the rows."""
    by_case: dict[Case, list[Row]] = {}
    for row in rows:
        by_case.setdefault(row.case, []).append(row)
    return [
        found
        for case, of_case in by_case.items()
        for row in of_case
        if (found := _fastest(case, row.head, of_case)) is not None
    ]


def _fastest(case: Case, ours: str, rows: Sequence[Row]) -> Fastest | None:
    """None if the head is not ours, or nothing was timed that could take its place."""
    if not is_ours(ours):
        return None
    loss, precision = loss_and_precision(ours)
    ratios = {
        row.head: row.ratios["both"][ours]
        for row in rows
        if not row.head.startswith("fused ")
        and loss_and_precision(row.head) == (loss, precision)
        and ours in row.ratios.get("both", {})
    }
    if not ratios:
        return None
    name, ratio = min(ratios.items(), key=lambda item: item[1])
    return Fastest(case, loss, precision, name.partition(f" {loss}")[0], ratio)


def is_ours(head: str) -> bool:
    """Whether a head's times are a base of ratios: ours, in float32 or bfloat16, without a CUDA graph."""
    loss, precision = loss_and_precision(head)
    return precision in BASE_PRECISIONS and head == f"fused {loss} {precision}"


def loss_and_precision(head: str) -> tuple[str, str]:
    """Of a head's name, such as "eager arcface bfloat16"; one that names no precision has float32."""
    *words, last = head.split()
    precisions = ("float32", "tf32", "bfloat16", "float16")
    return (words[-1], last) if last in precisions else (last, "float32")
