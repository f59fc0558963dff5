"""Verification figures as runs keep them: in checkpoints, metrics and summaries."""

from collections.abc import Sequence
from typing import Any

Verification = dict[str, dict[str, Any]]  # figures by set name


def mean_accuracy(verification: Verification) -> float:
    """Mean accuracy over the sets, by which the best checkpoint is told; 0 without any set."""
    accuracies = [figures["accuracy"] for figures in verification.values()]
    return sum(accuracies) / len(accuracies) if accuracies else 0.0


def accuracies_of(evaluations: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    """(step, mean accuracy over the sets) of each metric line of an evaluation that has some set."""
    return [
        (line["step"], mean_accuracy(line["verification"]))
        for line in evaluations
        if line["verification"]
    ]


def is_number(value: object) -> bool:
    """Whether a value read from a file is a number, NaN and infinity too."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_verification(value: object) -> bool:
    """Whether a value read from a file is verification figures, each set with its accuracy."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(figures, dict) and is_number(figures.get("accuracy"))
        for name, figures in value.items()
    )
