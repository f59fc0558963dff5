"""Reads a run directory, for figures, comparisons and verdicts."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from fusedface.recipes.run_directory.metrics import FILE, accuracies_of, read_metrics
from fusedface.recipes.run_directory.summary import SUMMARY, Summary, read_summary

Line = dict[str, Any]
WENT_WRONG = frozenset({"non_finite", "collapsed", "sunk", "chance"})


@dataclass(frozen=True)
class RunRecord:
    """The metrics of a run, and its summary once it has stopped."""

    train: list[Line]
    evaluations: list[Line]
    summary: Summary | None

    @property
    def accuracies(self) -> list[tuple[int, float]]:
        """(step, mean accuracy over the sets) of each evaluation that has at least one set."""
        return accuracies_of(self.evaluations)

    @property
    def ms_per_step(self) -> float | None:
        """Time of a training step with reading, the median over metric lines; None before the second."""
        steps = [(line["step"], line["seconds"]) for line in self.train]
        times = [(t1 - t0) / (n1 - n0) for (n0, t0), (n1, t1) in pairwise(steps)]
        return 1e3 * median(times) if times else None

    @property
    def went_wrong_at(self) -> int | None:
        """The step at which the run went wrong, by its verdict; None if it did not."""
        wrong = self.summary is not None and self.summary.verdict in WENT_WRONG
        return self.summary.verdict_step if self.summary and wrong else None


def read_run(folder: Path) -> RunRecord:
    """Read the files of a run that exist so far.

    Raises:
        ValueError: a file is damaged.
    """
    metrics, summary = folder / FILE, folder / SUMMARY
    lines = read_metrics(metrics) if metrics.exists() else []
    return RunRecord(
        [line for line in lines if line["kind"] == "train"],
        [line for line in lines if line["kind"] == "evaluation"],
        read_summary(summary) if summary.exists() else None,
    )
