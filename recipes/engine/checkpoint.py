"""Checkpoints: written whole or not at all, the newest undamaged one found again.

A file is a dictionary that `torch.load(path, weights_only=True)` reads. `fusedface.models` reads the
first six entries of it, the trainer the rest:

    format, version, step, backbone, preprocessing, model, head
    recipe, optimizer, scaler, rng, progress, data
"""

from pathlib import Path
from typing import Any

import torch

from fusedface.models.archives import read_archive
from fusedface.models.checkpoints import FORMAT, VERSION
from fusedface.recipes.engine.files import atomic_file, link_or_copy, remove_partial

BEST = "best.pt"
PATTERN = "step-*.pt"


class CheckpointFolder:
    """The checkpoints of one run: the newest few, and the best.

    Args:
        folder: made by the first `save`.
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
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.pt"
        with atomic_file(path) as file:
            torch.save({"format": FORMAT, "version": VERSION, "step": step, **content}, file)
        if best:
            link_or_copy(path, self.folder / BEST)
        for old in self._all()[self.keep :]:
            old.unlink(missing_ok=True)
        return path

    def newest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest checkpoint that is whole, and what is wrong with each newer one.

        What a killed run has left half-written is removed.

        Returns:
            The content (None if there is none) on the CPU, and the messages.
        """
        remove_partial(self.folder)
        problems: list[str] = []
        for path in self._all():
            try:
                content = read_archive(path)
            except ValueError as error:
                problems.append(str(error))
                continue
            if content.get("format") == FORMAT and content.get("version") == VERSION:
                return content, problems
            problems.append(f"{path} is not a checkpoint of this version")
        return None, problems

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints of later steps: damaged ones, or of a run that is being repeated."""
        for path in self._all():
            if _step(path) > step:
                path.unlink(missing_ok=True)

    def _all(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob(PATTERN), key=_step, reverse=True)


def _step(path: Path) -> int:
    digits = path.stem.removeprefix("step-")
    return int(digits) if digits.isdigit() else -1
