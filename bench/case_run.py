"""One case of `bench kernels`: each head is checked, measured and timed; its failures go into its row."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from fusedface.bench.case import Case, Inputs
from fusedface.bench.check import Truth, check, truth
from fusedface.bench.failures import (
    FAILURES,
    DeviceLostError,
    WrongResultError,
    failure,
    is_lost,
)
from fusedface.bench.heads.loss import Loss
from fusedface.bench.memory import Meter
from fusedface.bench.plan import Plan, free
from fusedface.bench.roofline import Ceilings, rates
from fusedface.bench.rows import Row
from fusedface.bench.steps import Run, graph_run, make_optimizer, step_run
from fusedface.bench.timing import alternate, paired_ratio, quartiles, stopwatch

if TYPE_CHECKING:
    from fusedface.bench.heads.table import Head

MAX_GRAPH_BYTES = 2**28  # of class centres, for heads in a CUDA graph


class CaseRun:
    """The run of one case: its inputs, and the results of each head so far.

    Args:
        case: the case.
        heads: the heads that are compared.
        plan: settings of the run.
        meter: of peak memory.
        ceilings: the limits of this machine, if they were measured.
        note: called with a text on the current work.
    """

    def __init__(
        self,
        case: Case,
        heads: "Sequence[Head]",
        plan: Plan,
        meter: Meter,
        ceilings: Ceilings | None,
        note: Callable[[str], None],
    ) -> None:
        self.case, self.plan, self.meter, self.ceilings = case, plan, meter, ceilings
        self.note = note
        self.heads = heads
        self.failures = {p.name: p.missing for p in self.heads if p.missing}
        self.failures |= {p.name: plan.lost[p.name] for p in self.heads if p.name in plan.lost}
        self.errors: dict[str, dict[str, float]] = {}
        self.peaks: dict[str, float | None] = {}
        self.last = ""  # head that ran, if one did

    def rows(self) -> list[Row]:
        """One row per head.

        Raises:
            DeviceLostError: a head has made the device useless for this process.
        """
        torch.compiler.reset()  # otherwise each shape counts towards the limit of recompilations
        try:
            inputs = self.case.inputs(self.plan.device)
        except FAILURES as error:
            self._check_device(error)
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
            expected, why = None, ""
            try:
                expected = truth(candidates[0], self.case, inputs)
            except FAILURES as error:
                self._check_device(error)
                why = f"not checked, {failure(error)}"
            if expected is None:
                self.failures |= dict.fromkeys((head.name for head in candidates), why)
                free(self.plan.device)  # now that no error holds the logits
                continue
            for head in candidates:
                self.note(f"{self.case}: checking {head.name}")
                with self._failing(head, inputs):
                    losses[head.name] = self._check(head, inputs, expected)
        return losses

    def _check(self, head: "Head", inputs: Inputs, expected: Truth) -> Loss:
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

    def _guarded(self, head: "Head", run: Run, inputs: Inputs) -> Run:
        """The run; if it fails, the failure goes into its row, and the other heads go on."""

        def guarded() -> dict[str, float]:
            if head.name not in self.failures:
                with self._failing(head, inputs):
                    return run()
            return {}

        return guarded

    @contextmanager
    def _failing(self, head: "Head", inputs: Inputs) -> Iterator[None]:
        """Turn a failure into a note, and free the memory that it still holds."""
        self.last = head.name
        try:
            yield
        except FAILURES as error:
            self.failures[head.name] = failure(error)
            self._check_device(error)
        else:
            return
        inputs[0].grad = inputs[1].grad = None
        free(self.plan.device)

    def _check_device(self, error: Exception) -> None:
        """Raise DeviceLostError if the device works no more: most likely for the head that ran last."""
        if is_lost(self.plan.device):
            raise DeviceLostError(self.last, failure(error)) from error

    def _row(self, head: "Head", seconds: dict[str, dict[str, list[float]]]) -> Row:
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


def _kind(head: "Head") -> tuple[str, str]:
    return head.margin.name, head.target_gradient
