"""The runs of a comparison: the planned runs, and their results so far."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusedface.recipes.run_directory.reader import RunRecord, read_run

if TYPE_CHECKING:
    from fusedface.recipes.configuration.recipe import Recipe

OF_THE_LOSS = (
    "name:", "summary:", "head.margin.", "head.weighting.", "head.focal_gamma:",
    "head.target_gradient:", "schedule.loss:",
)  # fmt: skip
"""First words of the lines on settings that may differ between losses."""
FAILED = "failed"  # an extra verdict: the process ended without a summary


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison: a loss, a seed, and the directory of the run."""

    label: str
    """Label of the loss: the recipe's name, and its parameter in a sweep."""
    seed: int
    recipe: "Recipe"
    folder: Path

    @property
    def output(self) -> Path:
        """The file with what it printed, next to its directory."""
        return self.folder.with_suffix(".txt")


@dataclass(frozen=True)
class RunResult(RunRecord):
    """A planned run with its files so far."""

    run: PlannedRun

    @property
    def verdict(self) -> str:
        """The verdict of its summary, or "failed" without a summary."""
        return self.summary.verdict if self.summary else FAILED

    @property
    def done(self) -> bool:
        """Whether a new start would change nothing: it is finished, or not finite, which would repeat."""
        return self.summary is not None and self.summary.verdict != "interrupted"


def read_result(run: PlannedRun) -> RunResult:
    """Read the files of a run that exist so far."""
    record = read_run(run.folder)
    return RunResult(record.train, record.evaluations, record.summary, run)


def last_words(run: PlannedRun) -> str:
    """The last line of a run's output, which says why it failed."""
    path = run.output
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it printed nothing")
