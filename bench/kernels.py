"""How do speed and memory of the fused head compare with its alternatives?

Run: python cli.py bench kernels                  the grid that suits the device
     python cli.py bench kernels --shape 256x85742x128 --rounds 15
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusedface.bench import results
from fusedface.bench.case import Case
from fusedface.bench.case_run import CaseRun
from fusedface.bench.failures import DeviceLostError
from fusedface.bench.heads.table import heads, precisions
from fusedface.bench.memory import Meter
from fusedface.bench.plan import Plan, chosen, free
from fusedface.bench.roofline import Ceilings, measure
from fusedface.bench.rows import Row


def run_to_file(
    cases: Sequence[Case],
    plan: Plan,
    out: Path | None,
    resume: bool = False,
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005
    benchmark: str = "kernels",
) -> dict[str, Any]:
    """Check and time every head on every case.

    Args:
        cases: the cases to run.
        plan: settings of the run.
        out: the result file, if any; it is written after each case.
        resume: keep the cases that `out` holds already, and run the others.
        note: called with a text on the current work.
        benchmark: name of the benchmark in the file.

    Returns:
        The content of `out`: machine, ceilings and rows.

    Raises:
        ValueError: `out` exists and is not a result of this benchmark.
        DeviceLostError: this process has lost its GPU. `out` holds the finished cases and whose fault it
            was, so that a run with `resume` in another process goes on without that head.
    """
    kept: list[Row] = []
    lost: dict[str, str] = {}
    if resume and out is not None and out.exists():
        found = results.read(out)
        kept = [Row.from_dict(row) for row in found["rows"]]
        lost = dict(found.get("lost", {}))
    note("measuring the limits of this machine")
    ceilings = measure(plan.device, precisions(plan.device)) if plan.rounds else None
    limits = None if ceilings is None else ceilings.as_dict()
    document: dict[str, Any] = {}

    def keep(rows: list[Row]) -> None:
        more = {"ceilings": limits} | ({"lost": lost} if lost else {})
        as_dicts = [row.as_dict() for row in rows]
        document.update(results.document(benchmark, plan.device, as_dicts, **more))
        if out is not None:
            results.write_json(out, document)

    keep(kept)
    done, rows = {row.case for row in kept}, kept

    def on_case(new: list[Row]) -> None:
        nonlocal rows
        rows = kept + new
        keep(rows)

    left = [case for case in cases if case not in done]
    try:
        run(left, replace(plan, lost=lost), ceilings, on_case, note)
    except DeviceLostError as error:
        lost[error.head] = error.why
        keep(rows)
        raise
    return document


def run(
    cases: Iterable[Case],
    plan: Plan,
    ceilings: Ceilings | None = None,
    on_case: Callable[[list[Row]], None] = lambda rows: None,  # noqa: ARG005
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> list[Row]:
    """`run_to_file` without a file; `on_case` is called after each case with all rows so far."""
    rows: list[Row] = []
    with Meter(plan.device, heads) as meter:
        for case in cases:
            if time.perf_counter() > plan.deadline:
                break
            free(plan.device)
            listed = chosen(heads(case.t, plan.device), plan.only, plan.skip)
            rows.extend(CaseRun(case, listed, plan, meter, ceilings, note).rows())
            on_case(rows)
    return rows
