"""How do speed and memory of the fused head compare with its alternatives?

Run: python cli.py bench kernels                  the grid that suits the device
     python cli.py bench kernels --shape 256x85742x128 --rounds 15
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fusedface.bench import results
from fusedface.bench.case import Case, Inputs
from fusedface.bench.check import Truth, check, truth
from fusedface.bench.failures import FAILURES, WrongResultError, failure
from fusedface.bench.heads.loss import Loss
from fusedface.bench.heads.table import CPU_PRECISIONS, GPU_PRECISIONS, Head, heads
from fusedface.bench.memory import Meter
from fusedface.bench.plan import Plan, chosen, free
from fusedface.bench.roofline import Ceilings, measure, rates
from fusedface.bench.rows import Row
from fusedface.bench.steps import Run, graph_run, make_optimizer, step_run
from fusedface.bench.timing import alternate, paired_ratio, quartiles, stopwatch

MAX_GRAPH_BYTES = 2**28  # of class centres, for heads in a CUDA graph


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
    """
    kept: list[Row] = []
    if resume and out is not None and out.exists():
        kept = [Row.from_dict(row) for row in results.read(out)["rows"]]
    note("measuring the limits of this machine")
    precisions = GPU_PRECISIONS if plan.device.type == "cuda" else CPU_PRECISIONS
    ceilings = measure(plan.device, precisions) if plan.rounds else None
    more = {"ceilings": None if ceilings is None else ceilings.as_dict()}
    document: dict[str, Any] = {}

    def keep(rows: list[Row]) -> None:
        as_dicts = [row.as_dict() for row in rows]
        document.update(results.document(benchmark, plan.device, as_dicts, **more))
        if out is not None:
            results.write_json(out, document)

    keep(kept)
    done = {row.case for row in kept}
    run(
        [case for case in cases if case not in done],
        plan,
        ceilings,
        lambda new: keep(kept + new),
        note,
    )
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
            rows.extend(_CaseRun(case, plan, meter, ceilings, note).rows())
            on_case(rows)
    return rows


class _CaseRun:
    """The run of one case: its inputs, and the results of each head so far."""

    def __init__(
        self,
        case: Case,
        plan: Plan,
        meter: Meter,
        ceilings: Ceilings | None,
        note: Callable[[str], None],
    ) -> None:
        self.case, self.plan, self.meter, self.ceilings = case, plan, meter, ceilings
        self.note = note
        self.heads = chosen(heads(case.t, plan.device), plan.only, plan.skip)
        self.failures = {p.name: p.missing for p in self.heads if p.missing}
        self.errors: dict[str, dict[str, float]] = {}
        self.peaks: dict[str, float | None] = {}

    def rows(self) -> list[Row]:
        """One row per head."""
        torch.compiler.reset()  # otherwise each shape counts towards the limit of recompilations
        try:
            inputs = self.case.inputs(self.plan.device)
        except FAILURES as error:
            return [Row(self.case, p.name, note=failure(error)) for p in self.heads]
        losses = self._checked(inputs)
        runs = self._runs(losses, inputs) if self.plan.rounds else {}
        self.note(f"{self.case}: timing {len(runs)} of {len(self.heads)}")
        deadline = min(time.perf_counter() + self.plan.seconds_per_case, self.plan.deadline)
        seconds = alternate(runs, self.plan.rounds, deadline)
        return [self._row(head, seconds) for head in self.heads]

    def _checked(self, inputs: Inputs) -> dict[str, Loss]:
        """The losses that fit in memory and are correct; one float64 reference is held at a time."""
        losses: dict[str, Loss] = {}
        for _, same in itertools.groupby(sorted(self.heads, key=_kind), key=_kind):
            candidates = [p for p in same if p.name not in self.failures]
            if not candidates:
                continue
            self.note(f"{self.case}: the truth of {candidates[0].margin.name}")
            expected = truth(candidates[0], self.case, inputs)
            for head in candidates:
                self.note(f"{self.case}: checking {head.name}")
                with self._failing(head, inputs):
                    losses[head.name] = self._check(head, inputs, expected)
        return losses

    def _check(self, head: Head, inputs: Inputs, expected: Truth) -> Loss:
        loss = head.make()
        first = self.plan.device.type == "cpu"  # this process must not run a step that does not fit
        if self.plan.memory and first:
            self.peaks[head.name] = self.meter.peak_mib(self.case, head.name, loss, inputs)
        try:
            self.errors[head.name] = check(head, loss, inputs, expected)._asdict()
        except WrongResultError as error:
            self.errors[head.name] = error.errors._asdict()
            raise
        if self.plan.memory and not first:
            self.peaks[head.name] = self.meter.peak_mib(self.case, head.name, loss, inputs)
        return loss

    def _runs(self, losses: dict[str, Loss], inputs: Inputs) -> dict[str, Run]:
        """The runs for `alternate`; each has run once."""
        optimizer, watch = make_optimizer(inputs), stopwatch(self.plan.device)
        runs: dict[str, Run] = {}
        for head in self.heads:
            if (loss := losses.get(head.name)) is None:
                continue
            with self._failing(head, inputs):
                if head.in_graph and inputs[1].nbytes > MAX_GRAPH_BYTES:
                    raise RuntimeError(
                        "left out: what a graph allocates stays allocated next to the others"
                    )
                make = graph_run if head.in_graph else step_run
                run = make(loss, inputs, optimizer, watch)
                run()
                runs[head.name] = self._guarded(head, run, inputs)
        return runs

    def _guarded(self, head: Head, run: Run, inputs: Inputs) -> Run:
        """The run; if it fails, the failure goes into its row, and the other heads go on."""

        def guarded() -> dict[str, float]:
            if head.name not in self.failures:
                with self._failing(head, inputs):
                    return run()
            return {}

        return guarded

    @contextmanager
    def _failing(self, head: Head, inputs: Inputs) -> Iterator[None]:
        """Turn a failure into a note, and free the memory that it still holds."""
        try:
            yield
        except FAILURES as error:
            self.failures[head.name] = failure(error)
        else:
            return
        inputs[0].grad = inputs[1].grad = None
        free(self.plan.device)

    def _row(self, head: Head, seconds: dict[str, dict[str, list[float]]]) -> Row:
        name = head.name
        known: dict[str, Any] = {
            "peak_extra_mib": self.peaks.get(name),
            "errors": self.errors.get(name),
        }
        passes = seconds.get(name)
        if name in self.failures or not passes:
            return Row(self.case, name, **known, note=self.failures.get(name, ""))
        ms = {which: quartiles([1e3 * s for s in passes[which]]) for which in passes}
        ratios = {
            which: {
                base: paired_ratio(passes[which], seconds[base][which])
                for base in head.bases
                if base in seconds and base not in self.failures
            }
            for which in ("both", "step")
        }
        seconds_each = ms["both"][1] / 1e3
        known |= rates(self.case, head, self.plan.device, seconds_each, self.ceilings)
        return Row(self.case, name, ms, ratios, **known)


def _kind(head: Head) -> tuple[str, str]:
    return head.margin.name, head.target_gradient
