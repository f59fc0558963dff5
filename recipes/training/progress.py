"""The progress of a run and its results so far, as a resumed run takes them over."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Self

from fusedface.recipes.run_directory.metrics import Verification, is_number, is_verification

LATER = {"recipe_changes", "stages_ended", "cpu_seconds", "precision"}
"""Entries that checkpoints of earlier versions lack."""


@dataclass
class Progress:
    """The entry "progress" of a checkpoint: what it holds besides weights and states."""

    step: int = 0
    seconds: float = 0.0
    """Seconds since the run began, over all starts and resumptions."""
    train_seconds: float = 0.0
    """The part of `seconds` that was spent in training steps."""
    cpu_seconds: float = 0.0
    """Seconds of all CPU cores, of training and evaluation."""
    final_loss: float | None = None
    """The loss in the last line of metrics."""
    best_accuracy: float = -math.inf
    untrained: Verification | None = None
    verification: Verification | None = None
    unreadable: list[str] = field(default_factory=list)
    """Images that could not be read, with the reason."""
    compiled: bool | None = None
    """Whether steps are compiled; None before the first one that trains the backbone."""
    recipe_changes: list[dict[str, Any]] = field(default_factory=list)
    """Changes of settings when the run was resumed: {"step": ..., "changes": [a line each]}."""
    stages_ended: dict[int, int] = field(default_factory=dict)
    """The stages of `schedule.loss` that a condition has ended: {index: number of steps made by then}."""
    precision: str | None = None
    """The dtype of the backbone's products, such as "bfloat16"; None in checkpoints of earlier versions."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read the entry of a checkpoint.

        Raises:
            ValueError: a value is missing, unknown, or of the wrong kind.
        """
        values = {"compiled": None if values.get("step") == 0 else False} | values
        unknown = set(values) - {f.name for f in fields(cls)}
        missing = {f.name for f in fields(cls)} - LATER - set(values)
        if unknown or missing:
            raise ValueError(f"its progress has unknown {sorted(unknown)}, lacks {sorted(missing)}")
        for name, holds, rule in (
            ("step", lambda v: type(v) is int and v >= 0, "a whole number, at least 0"),
            ("seconds", _is_duration, "a time in seconds"),
            ("train_seconds", _is_duration, "a time in seconds"),
            ("cpu_seconds", _is_duration, "a time in seconds"),
            ("final_loss", lambda v: v is None or is_number(v), "a number or none"),
            ("best_accuracy", lambda v: is_number(v) and not math.isnan(v), "a number"),
            ("untrained", lambda v: v is None or is_verification(v), "figures by set name"),
            ("verification", lambda v: v is None or is_verification(v), "figures by set name"),
            (
                "unreadable",
                lambda v: isinstance(v, list) and all(type(p) is str for p in v),
                "texts",
            ),
            ("precision", lambda v: v is None or type(v) is str, "a dtype or none"),
            ("compiled", lambda v: v is None or type(v) is bool, "true, false or none"),
            ("recipe_changes", _are_changes, "steps with their changes"),
            ("stages_ended", _are_counts, "steps by the index of a stage"),
        ):
            if name in values and not holds(values[name]):
                raise ValueError(f"progress.{name} must be {rule}, got {str(values[name])[:80]!r}")
        return cls(**values)


def _is_duration(value: Any) -> bool:
    return is_number(value) and 0.0 <= value < math.inf


def _are_changes(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(change, dict)
        and type(change.get("step")) is int
        and isinstance(change.get("changes"), list)
        and all(type(line) is str for line in change["changes"])
        for change in value
    )


def _are_counts(value: object) -> bool:
    return isinstance(value, dict) and all(
        type(number) is int and number >= 0 for pair in value.items() for number in pair
    )
