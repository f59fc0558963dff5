"""The runs of a comparison: what is planned, and what they have written so far."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusedface.recipes.run_directory.reader import RunRecord, read_run

if TYPE_CHECKING:
    from fusedface.recipes.configuration.recipe import Recipe

OF_THE_LOSS = (
    "name:", "summary:", "head.margin.", "head.weighting.", "head.focal_gamma:", "schedule.loss:",
)  # fmt: skip
"""How lines on settings begin that losses may differ in."""
FAILED = "failed"  # next to the verdicts: the process ended without a summary


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison: a loss, a seed, and the directory of the run."""

    label: str
    """The loss: the recipe's name, and what a sweep has changed in it."""
    seed: int
    recipe: "Recipe"
    folder: Path


@dataclass(frozen=True)
class RunResult(RunRecord):
    """One run of a comparison: what is planned, and what is there of it."""

    run: PlannedRun

    @property
    def verdict(self) -> str:
        """That of its summary, or "failed"."""
        return self.summary.verdict if self.summary else FAILED

    @property
    def done(self) -> bool:
        """Whether to run it again would change nothing: finished, or not finite, which repeats."""
        return self.summary is not None and self.summary.verdict != "interrupted"


def read_result(run: PlannedRun) -> RunResult:
    """Read a run's directory, whatever is there of it."""
    record = read_run(run.folder)
    return RunResult(record.train, record.evaluations, record.summary, run)
