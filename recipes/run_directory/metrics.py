"""metrics.jsonl and TensorBoard: the same figures, one line per event, each event once."""

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from fusedface.recipes.run_directory.files import write_text

FILE = "metrics.jsonl"
Verification = dict[str, dict[str, Any]]
"""Verification figures by set name, in the form of metrics, checkpoints and summaries."""


class MetricsLog:
    """Appends to a run's metrics.

    A line is {"kind": "train" | "evaluation", "step": steps trained so far, ...}. A run that resumes at a
    step repeats all later steps, so their lines are removed first.

    A context manager, which closes the files at its end.

    Args:
        folder: the run directory.
        step: number of steps already trained; lines of later steps are removed; -1 removes all.

    Raises:
        ValueError: the existing lines are damaged, see `read_metrics`; they are not changed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / FILE
        if self.path.exists():
            kept = [line for line in read_metrics(self.path) if line["step"] <= step]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a", encoding="utf-8")
        self._board, self.notice = _open_board(folder / "tensorboard", step)

    def __enter__(self) -> Self:
        self._hook = threading.excepthook
        threading.excepthook = self._on_thread_error
        return self

    def _on_thread_error(self, args: threading.ExceptHookArgs) -> None:
        """Suppress the traceback of TensorBoard's thread if it cannot write; the next `write` raises it."""
        of_board = type(args.thread).__module__.startswith("tensorboard.")
        if not (of_board and issubclass(args.exc_type, OSError)):
            self._hook(args)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        threading.excepthook = self._hook
        if kind is None:
            self.close()
            return
        # A second write error would only hide the current one.
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._close_board()

    def write(self, kind: str, step: int, figures: dict[str, Any]) -> None:
        """Append and flush one line; TensorBoard shows nested figures as "verification/lfw/accuracy"."""
        self._file.write(json.dumps({"kind": kind, "step": step, **figures}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in _scalars(figures, kind):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._close_board()

    def _close_board(self) -> None:
        if self._board is not None:
            self._board.close()


class NoLog:
    """Replaces `MetricsLog` in processes that do not write it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def write(self, kind: str, step: int, figures: dict[str, Any]) -> None:
        """Do nothing."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a half-written last line of a killed process is skipped.

    Raises:
        ValueError: another line is damaged; the message names file and line.
    """
    *whole, last = path.read_bytes().split(b"\n")
    lines = [_line(text, f"{path}:{number}") for number, text in enumerate(whole, start=1)]
    with suppress(ValueError):  # without a line break at its end: half a line, or a whole one
        lines.append(_line(last, str(path)))
    return lines


def mean_accuracy(verification: Verification) -> float:
    """Mean accuracy over the sets, which decides the best checkpoint; 0 without sets."""
    accuracies = [figures["accuracy"] for figures in verification.values()]
    return sum(accuracies) / len(accuracies) if accuracies else 0.0


def accuracies_of(evaluations: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    """(step, mean accuracy over the sets) of each evaluation that has at least one set."""
    return [
        (line["step"], mean_accuracy(line["verification"]))
        for line in evaluations
        if line["verification"]
    ]


def is_number(value: object) -> bool:
    """Whether a value read from a file is a number; NaN and infinity count."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_verification(value: object) -> bool:
    """Whether a value read from a file has the form of `Verification`, with an accuracy for each set."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(figures, dict) and is_number(figures.get("accuracy"))
        for name, figures in value.items()
    )


def _line(text: bytes, where: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):  # not UTF-8, not JSON, too deep
        line = {}
    if not _is_line(line):
        raise ValueError(
            f"{where}: {text[:60].decode('utf-8', 'replace')!r} is not a line of metrics; restore "
            "the file, or remove the line"
        )
    return line


def _is_line(line: Any) -> bool:
    """Whether a line has all fields that readers need."""
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return False
    if line.get("kind") == "evaluation":
        return is_verification(line.get("verification"))
    return line.get("kind") == "train" and is_number(line.get("loss"))


def _open_board(folder: Path, step: int) -> tuple[Any, str | None]:
    """A TensorBoard writer, or None and a message for the user."""
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
