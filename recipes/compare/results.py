"""What the runs of a comparison have written so far."""

import json
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from fusedface.recipes.compare.plan import PlannedRun
from fusedface.recipes.engine.metrics import FILE, read_metrics
from fusedface.recipes.engine.rundir import SUMMARY
from fusedface.recipes.engine.summary import Summary

Line = dict[str, Any]
FAILED = "failed"  # beside the verdicts: the process ended without a summary


@dataclass(frozen=True)
class RunResult:
    """One run: its metrics, and its summary once it has stopped."""

    run: PlannedRun
    train: list[Line]
    evaluations: list[Line]
    summary: Summary | None

    @property
    def verdict(self) -> str:
        """The watcher's, or "failed"."""
        return self.summary.verdict if self.summary else FAILED

    @property
    def done(self) -> bool:
        """Whether to run it again would change nothing: finished, or not finite, which repeats."""
        return self.summary is not None and self.summary.verdict != "interrupted"

    @property
    def accuracies(self) -> list[tuple[int, float]]:
        """(step, mean accuracy over the sets) of each evaluation."""
        return [
            (line["step"], sum(f["accuracy"] for f in sets.values()) / len(sets))
            for line in self.evaluations
            if (sets := line["verification"])
        ]

    @property
    def ms_per_step(self) -> float | None:
        """Time of a training step with reading, the median over metric lines; None before the second."""
        steps = [(line["step"], line["seconds"]) for line in self.train]
        times = [(t1 - t0) / (n1 - n0) for (n0, t0), (n1, t1) in pairwise(steps)]
        return 1e3 * median(times) if times else None


def read_result(run: PlannedRun) -> RunResult:
    """Read a run's directory, whatever is there of it."""
    metrics, summary = run.folder / FILE, run.folder / SUMMARY
    lines = read_metrics(metrics) if metrics.exists() else []
    return RunResult(
        run,
        [line for line in lines if line["kind"] == "train"],
        [line for line in lines if line["kind"] == "evaluation"],
        Summary(**json.loads(summary.read_text(encoding="utf-8"))) if summary.exists() else None,
    )
