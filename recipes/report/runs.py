"""Data of runs for figures: groups by loss, curves, and their means."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusedface.recipes.run_directory.metrics import FILE
from fusedface.recipes.run_directory.reader import RunRecord, read_run


@dataclass(frozen=True)
class Band:
    """A curve over several runs: mean and sample standard deviation at each step, (N,) each."""

    steps: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def group_runs(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """Run directories by loss: the recipe's name and, in a comparison, the swept parameter.

    Args:
        folders: run directories, or folders with run directories (a comparison, or one of its losses).

    A run that is given twice counts once.

    Raises:
        ValueError: a folder has no run.
    """
    groups: dict[str, dict[Path, Path]] = {}  # of each label, by where a run really lies
    for folder in folders:
        found = (
            [folder] if (folder / FILE).is_file() else sorted(p.parent for p in folder.rglob(FILE))
        )
        if not found:
            raise ValueError(f"{folder} holds no run: there is no {FILE} in it")
        for run in found:
            groups.setdefault(_label(run), {}).setdefault(run.resolve(), run)
    return {label: [*runs.values()] for label, runs in groups.items()}


def band(curves: Sequence[Sequence[tuple[int, float]]]) -> Band | None:
    """Mean and spread of the curves at each step, over the curves with that step; None without any step.

    After the end of a run that stopped early, the band covers only the other runs.
    """
    by_step: dict[int, list[float]] = {}
    for curve in curves:
        for step, value in curve:
            by_step.setdefault(step, []).append(value)
    if not by_step:
        return None
    steps = np.array(sorted(by_step))
    values = [by_step[step] for step in steps]
    std = [np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values]
    return Band(steps, np.array([np.mean(v) for v in values]), np.array(std))


def curve(run: RunRecord, key: str) -> list[tuple[int, float]]:
    """(step, value) of one training figure at the steps where it is known."""
    return [(line["step"], line[key]) for line in run.train if key in line]


def read_groups(groups: Mapping[str, Sequence[Path]]) -> dict[str, list[RunRecord]]:
    """Read every run of every group."""
    return {label: [read_run(folder) for folder in folders] for label, folders in groups.items()}


def _label(run: Path) -> str:
    if run.name.startswith("seed") and run.parent.parent.name == "runs":
        return run.parent.name.replace("_", " ")
    summary = read_run(run).summary
    return summary.recipe if summary else run.name
