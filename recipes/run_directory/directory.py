"""The directory of a run and its files.

recipe.toml         the resolved recipe; runs again from this file
environment.json    versions, device, revision, seed, of every start and resumption
metrics.jsonl       a line per logged step and per evaluation
tensorboard/        the same as events
checkpoints/        step-*.pt, the newest few, and best.pt; with several processes their class centres
                    are in folders step-*.centres; names that end in .damaged are of damaged ones
summary.json        verdict and results
curves.png, .svg    the training curve
run.lock            the process that runs in it; only while it runs
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fusedface.recipes.host.program import command
from fusedface.recipes.run_directory.files import read_json, remove_partial, write_text
from fusedface.recipes.run_directory.lock import LOCK, FolderLock
from fusedface.recipes.run_directory.summary import SUMMARY, Summary, read_summary

RECIPE, ENVIRONMENT = "recipe.toml", "environment.json"


class RunDirectory:
    """The files of a run; nothing is written before `claim`.

    Args:
        folder: the path; it need not exist yet.
        device: as the user gave it, for `resume_command`.
    """

    def __init__(self, folder: Path, device: str | None = None) -> None:
        self.folder, self.device = folder, device
        self.recipe, self.checkpoints = folder / RECIPE, folder / "checkpoints"

    def found(self) -> set[str]:
        """The names of the entries of the folder.

        Raises:
            ValueError: the path is a file.
        """
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; a run needs a folder")
        return {path.name for path in folder.iterdir()} - {LOCK} if folder.is_dir() else set()

    def claim(self) -> FolderLock:
        """Lock the folder for this process until the lock is left.

        Raises:
            ValueError: another process has it.
        """
        return FolderLock(self.folder)

    def remove_partial(self) -> None:
        """Remove half-written files of a killed run."""
        remove_partial(self.folder)

    def write_recipe(self, text: str) -> None:
        """Write recipe.toml, atomically."""
        write_text(self.recipe, text)

    def read_starts(self) -> list[Any]:
        """The content of environment.json: each start and resumption.

        Raises:
            ValueError: it is damaged; the message names the file.
        """
        path = self.folder / ENVIRONMENT
        starts = read_json(path) if path.exists() else []
        if not isinstance(starts, list):
            raise ValueError(  # noqa: TRY004  the file is bad, not the argument's type
                f"{path} is damaged: it must hold a list of starts; restore it or remove it"
            )
        return starts

    def add_start(self, step: int, start: dict[str, Any]) -> None:
        """Append a start or resumption at `step` to environment.json."""
        starts = [*self.read_starts(), {"step": step, **start}]
        write_text(self.folder / ENVIRONMENT, json.dumps(starts, indent=2) + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json, atomically."""
        write_text(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")

    def remove_summary(self) -> None:
        """Remove summary.json, because its run goes on."""
        (self.folder / SUMMARY).unlink(missing_ok=True)

    def read_summary(self) -> Summary | None:
        """The summary of a run that has stopped, else None.

        Raises:
            ValueError: it is damaged.
        """
        path = self.folder / SUMMARY
        return read_summary(path) if path.exists() else None

    def resume_command(self) -> str:
        """The command to go on with the run."""
        device = ["--device", self.device] if self.device else []
        return command("recipe", "run", self.recipe, "--out", self.folder, "--resume", *device)


@contextmanager
def run_folder(out: Path | None, name: str) -> Iterator[Path]:
    """--out, or a new folder in runs/, which is removed again if nothing is written to it."""
    if out is not None:
        yield out
        return
    folder = _new_folder(Path("runs"), name)
    try:
        yield folder
    finally:
        with suppress(OSError):  # not empty
            folder.rmdir()


def _new_folder(parent: Path, name: str) -> Path:
    """Make parent/name, or the first of parent/name-2, -3, ... that does not exist.

    It makes the folder at once, so that runs that start at the same time get different folders.
    """
    parent.mkdir(parents=True, exist_ok=True)
    candidate, number = parent / name, 1
    while True:
        with suppress(FileExistsError):
            candidate.mkdir()
            return candidate
        number += 1
        candidate = parent / f"{name}-{number}"
