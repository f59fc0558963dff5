"""How far a run is, and what it has measured: carried from one process of a run to the next."""

import math
from dataclasses import dataclass, field
from typing import Any

Verification = dict[str, dict[str, Any]]  # figures by set name


@dataclass
class Progress:
    """All that a checkpoint holds beside weights and the states of generators and optimiser."""

    step: int = 0
    seconds: float = 0.0
    """Since the run began, all of it, over all processes."""
    train_seconds: float = 0.0
    """Of that, in training steps."""
    final_loss: float | None = None
    """Of the last line of metrics."""
    best_accuracy: float = -math.inf
    untrained: Verification | None = None
    verification: Verification | None = None
    unreadable: list[str] = field(default_factory=list)
    """Images that could not be read, with the reason."""


def mean_accuracy(verification: Verification) -> float:
    """Mean accuracy over the sets, by which the best checkpoint is told; 0 without any set."""
    accuracies = [figures["accuracy"] for figures in verification.values()]
    return sum(accuracies) / len(accuracies) if accuracies else 0.0
