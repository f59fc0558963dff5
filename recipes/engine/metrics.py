"""metrics.jsonl and TensorBoard: the same figures, one line an event, never one twice."""

import json
from pathlib import Path
from typing import Any

from fusedface.recipes.engine.files import write_text

FILE = "metrics.jsonl"


class MetricsLog:
    """Appends to a run's metrics.

    A line is {"kind": "train" | "evaluation", "step": steps trained so far, ...}. A run that is resumed
    at a step repeats what came after it, so those lines are removed first.

    Args:
        folder: the run directory.
        step: how many steps are already trained, lines beyond are removed; -1 removes all.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / FILE
        if self.path.exists():
            kept = [line for line in read_metrics(self.path) if line["step"] <= step]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a", encoding="utf-8")
        self._board, self.notice = _open_board(folder / "tensorboard", step)

    def write(self, kind: str, step: int, figures: dict[str, Any]) -> None:
        """Append one line and flush it; nested figures become "verification/lfw/accuracy" on the board."""
        self._file.write(json.dumps({"kind": kind, "step": step, **figures}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in _scalars(figures, kind):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that a killed process left half-written is skipped."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _open_board(folder: Path, step: int) -> tuple[Any, str | None]:
    """A TensorBoard writer, or None and what to tell the user."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None, "TensorBoard is not installed: its events are not written (metrics.jsonl is)"
    return SummaryWriter(str(folder), purge_step=step + 1), None


def _scalars(figures: dict[str, Any], prefix: str) -> list[tuple[str, float]]:
    scalars: list[tuple[str, float]] = []
    for name, value in figures.items():
        key = f"{prefix}/{name}"
        if isinstance(value, dict):
            scalars += _scalars(value, key)
        elif isinstance(value, int | float):
            scalars.append((key, float(value)))
    return scalars
