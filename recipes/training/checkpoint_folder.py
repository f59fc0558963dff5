"""The checkpoints of a run: atomic writes, and a search for the newest undamaged one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from fusedface.models.archives import FORMAT, VERSION, read_archive
from fusedface.models.shard_files import ShardFiles
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.run_directory.files import atomic_file, link_or_copy, remove_partial
from fusedface.recipes.training.checkpoint import Checkpoint
from fusedface.recipes.training.shard_folder import remove_unused, set_aside_unused

BEST = "best.pt"
PATTERN = "step-*.pt"
DAMAGED = ".damaged"
"""Ends the name of a file that a resumed run has set aside."""


class CheckpointFolder:
    """The checkpoints of one run: the newest few, and the best.

    Args:
        folder: made by the first `save`; its parent must exist.
        keep: how many of the newest to keep.
        entries: entries of every checkpoint: the recipe, and which images it is trained on.
    """

    def __init__(self, folder: Path, keep: int, entries: Mapping[str, Any] | None = None) -> None:
        self.folder, self.keep, self.entries = folder, keep, entries or {}

    def save(self, step: int, content: dict[str, Any], best: bool) -> Path:
        """Write a checkpoint and remove the oldest ones.

        Args:
            step: how many steps have been trained.
            content: the other entries, without format, version and step.
            best: whether it also becomes best.pt.
        """
        self.folder.mkdir(exist_ok=True)  # not its parents: a deleted run must not come back
        path = self.folder / f"step-{step:08d}.pt"
        with atomic_file(path) as file:
            _save(
                {"format": FORMAT, "version": VERSION, "step": step, **self.entries, **content},
                file,
            )
        if best:
            link_or_copy(path, self.folder / BEST)
        for old in self._all()[self.keep :]:
            if old != path:  # damaged files of later steps may still be there
                old.unlink(missing_ok=True)
        remove_unused(self.folder)
        return path

    def newest(self, processes: Processes | None = None) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that is whole, and the fault of each newer one.

        Args:
            processes: those that all call this. Each checks a part of the files with class centres.

        Raises:
            ValueError: it is whole but of another version, or its name has another step; or the
                processes see different folders.
            OSError: a checkpoint cannot be read now, such as from a failing disk; it may be whole.
        """
        processes = processes or Processes()
        problems: list[str] = []
        for path in self._same(processes):
            with processes.together():
                content, problem = _read(path, slice(processes.rank, None, processes.count))
            found = [text for text in processes.gather(problem) if text is not None]
            if found:
                problems.append(found[0])
                continue
            checkpoint = Checkpoint(path, content)
            if content.get("format") != FORMAT or content.get("version") != VERSION:
                raise checkpoint.unusable("it is not a checkpoint of this version")
            if content.get("step") != _step(path):
                raise checkpoint.unusable(f"it is of step {str(content.get('step'))[:20]}")
            return checkpoint, problems
        return None, problems

    def last_step(self) -> int | None:
        """The step of the newest file; None if there is none."""
        return next((_step(path) for path in self._all()), None)

    def remove_partial(self) -> None:
        """Remove half-written files of a killed run."""
        remove_partial(self.folder)
        remove_unused(self.folder)

    def set_aside_after(self, step: int) -> list[str]:
        """Rename the damaged checkpoints of later steps, with their class centres; returns the new names.

        Nothing is removed: what is damaged for us may be whole for its owner.
        """
        later = [path for path in self._all() if _step(path) > step]
        for path in later:
            path.replace(path.with_name(path.name + DAMAGED))
        set_aside_unused(self.folder, [path.stem for path in later], DAMAGED)
        remove_unused(self.folder)
        return [path.name + DAMAGED for path in later]

    def _same(self, processes: Processes) -> list[Path]:
        """All checkpoint files; raises ValueError, on every process, if another process has others."""
        paths = self._all()
        listed = processes.gather([path.name for path in paths])
        for rank, names in enumerate(listed):
            if names != listed[0]:
                first, other = (", ".join(found) or "none" for found in (listed[0], names))
                raise ValueError(
                    f"the checkpoints are {first} on rank 0 and {other} on rank {rank}: the run directory "
                    "must be the same for all processes, on a file system that their machines share"
                )
        return paths

    def _all(self) -> list[Path]:
        """All checkpoint files, the newest first."""
        return sorted(self.folder.glob(PATTERN), key=_step, reverse=True)


def _read(path: Path, which: slice) -> tuple[dict[str, Any], str | None]:
    """The content of a checkpoint, and its fault; `which` of its files with class centres are checked."""
    try:
        content = read_archive(path)
        if (files := ShardFiles.of(path, content)) is not None:
            files.check(which)
    except ValueError as error:
        return {}, str(error)
    return content, None


class _Watched:
    """A file that keeps the error of a failed write, because torch.save may hide it."""

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
    """torch.save, which always raises OSError if the file cannot be written."""
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
