"""What a comparison tells of its runs besides the figures: comparison.json, runs left, failed runs."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fusedface.recipes.compare.results import FAILED, RunResult, last_words
from fusedface.recipes.compare.statistics import LossResult, reference_label
from fusedface.recipes.compare.tables import as_dict, settings_line
from fusedface.recipes.host.terminal import say
from fusedface.recipes.run_directory.environment import describe_environment
from fusedface.recipes.run_directory.files import write_text

COMPARISON = "comparison.json"


def begun_runs(results: Sequence[RunResult], console: Console) -> list[RunResult]:
    """The runs that have begun; tells how many have not, and why processes ended without a result."""
    # A process that begins makes the .txt first; a run of a study has a summary and no process.
    begun = [r for r in results if r.summary or r.run.output.exists()]
    if len(begun) < len(results):
        left = len(results) - len(begun)
        say(console, f"{left} of {len(results)} runs are still to do; the same command goes on")
    if begun:
        _report_failures(begun, console)
    return begun


def _report_failures(results: Sequence[RunResult], console: Console) -> None:
    """Report why processes ended without a result; raise ValueError if all did."""
    failed = [result.run for result in results if result.verdict == FAILED]
    if len(failed) == len(results):
        raise ValueError(f"every run failed; the first said: {last_words(failed[0])}")
    for run in failed:
        say(console, f"{run.label}, seed {run.seed} failed: {last_words(run)}")


def write_comparison(
    results: Sequence[RunResult], losses: list[LossResult], out: Path, device: torch.device
) -> None:
    """Write comparison.json into the folder of the comparison."""
    content = _content(results, losses, out, device)
    write_text(out / COMPARISON, json.dumps(content, indent=2) + "\n")


def _content(
    results: Sequence[RunResult], losses: list[LossResult], out: Path, device: torch.device
) -> dict[str, Any]:
    first = results[0].run.recipe
    return {
        "format": "fusedface comparison",
        "version": 1,
        "settings": settings_line(first),
        "reference": reference_label(results),
        "environment": {
            "seed": first.train.seed,
            "precision": first.train.precision,
            **describe_environment(device),
        },
        "losses": as_dict(losses),
        "runs": [
            {
                "label": result.run.label,
                "seed": result.run.seed,
                "folder": Path(os.path.relpath(result.run.folder, out)).as_posix(),
                "verdict": result.verdict,
                "message": result.summary.message if result.summary else last_words(result.run),
                "accuracies": result.accuracies,
                "last": result.train[-1] if result.train else None,
            }
            for result in results
        ],
    }


def how_to_read(results: Sequence[RunResult]) -> str:
    """What the figures of the tables are."""
    return (
        "Means over seeds ± standard deviation. The second table tests "
        f"{reference_label(results)}, the reference, against each loss on the same seeds, in points: "
        "p of a paired t-test, and in brackets after Holm's correction."
    )
