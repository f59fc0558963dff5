"""Checkpoints: written whole or not at all, the newest undamaged one found again.

A file is a dictionary that `torch.load(path, weights_only=True)` reads. `fusedface.models` reads the
first six entries of it, the trainer the rest:

    format, version, step, backbone, preprocessing, model, head
    recipe, optimizer, scaler, rng, progress, data
"""

from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from fusedface.models.archives import read_archive
from fusedface.models.checkpoints import FORMAT, VERSION
from fusedface.recipes.run_directory.files import atomic_file, link_or_copy, remove_partial

BEST = "best.pt"
PATTERN = "step-*.pt"


class Checkpoint(NamedTuple):
    """A checkpoint that was read, on the CPU."""

    path: Path
    content: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of one run: the newest few, and the best.

    Args:
        folder: made by the first `save`; the folder that it lies in must be there.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(self, step: int, content: dict[str, Any], best: bool) -> Path:
        """Write a checkpoint and remove the oldest ones.

        Args:
            step: how many steps have been trained.
            content: all entries but format, version and step.
            best: whether it becomes the best.
        """
        self.folder.mkdir(exist_ok=True)  # not its parents: a run that was deleted stays so
        path = self.folder / f"step-{step:08d}.pt"
        with atomic_file(path) as file:
            _save({"format": FORMAT, "version": VERSION, "step": step, **content}, file)
        if best:
            link_or_copy(path, self.folder / BEST)
        for old in self._all()[self.keep :]:
            old.unlink(missing_ok=True)
        return path

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that is whole, and what is wrong with each newer one.

        Raises:
            ValueError: it is whole but none of this version, or its name says another step.
        """
        problems: list[str] = []
        for path in self._all():
            try:
                content = read_archive(path)
            except ValueError as error:
                problems.append(str(error))
                continue
            if content.get("format") != FORMAT or content.get("version") != VERSION:
                raise unusable(path, "it is not a checkpoint of this version")
            if content.get("step") != _step(path):
                raise unusable(path, f"it is of step {str(content.get('step'))[:20]}")
            return Checkpoint(path, content), problems
        return None, problems

    def last_step(self) -> int | None:
        """The step of the newest file there is now; None if there is none."""
        return next((_step(path) for path in self._all()), None)

    def remove_partial(self) -> None:
        """Remove what a killed run has left half-written."""
        remove_partial(self.folder)

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints of later steps: damaged ones, or of a run that is being repeated."""
        for path in self._all():
            if _step(path) > step:
                path.unlink(missing_ok=True)

    def _all(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob(PATTERN), key=_step, reverse=True)


def unusable(path: Path, reason: str) -> ValueError:
    """The error for a checkpoint that is whole, but that a run cannot go on from."""
    return ValueError(
        f"cannot go on from {path}: {reason}. Move it out of the folder to go on from the checkpoint "
        "before it, or from the start if there is none"
    )


class _Watched:
    """A file that remembers why it could not be written, which torch.save does not always tell."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.error = file, None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _save(content: dict[str, Any], file: BinaryIO) -> None:
    """torch.save, with an OSError and nothing else where the file cannot be written."""
    watched = _Watched(file)
    try:
        torch.save(content, watched)  # pyright: ignore[reportArgumentType]  it asks for no more
    except RuntimeError as error:
        if watched.error is None:
            raise
        raise watched.error from error


def _step(path: Path) -> int:
    digits = path.stem.removeprefix("step-")
    return int(digits) if digits.isdigit() else -1
