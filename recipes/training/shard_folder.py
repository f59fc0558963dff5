"""The folders with class centres next to the checkpoints of a run on several processes.

Each save takes a new folder, so that a save that is killed spoils no older one. The checkpoint itself is
written last and names its folder: a folder that no checkpoint names is what a killed save has left.
"""

import shutil
from collections.abc import Collection
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusedface.models.shard_files import SHARDS, SUFFIX
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.run_directory.files import sync_folder

if TYPE_CHECKING:
    from fusedface.models.class_shard import ClassShard


def save_rows(
    checkpoints: Path, step: int, rows: dict[str, Tensor], shard: "ClassShard", processes: Processes
) -> dict[str, Any] | None:
    """Write the rows of each process to a new folder; all processes call it.

    Args:
        checkpoints: the folder of the checkpoints.
        step: how many steps have been trained.
        rows: of this process, see `own_rows`.
        shard: which rows these are.
        processes: the processes that share the run.

    Returns:
        The entry SHARDS of the checkpoint on the first process, None on the others.

    Raises:
        OSError: a process could not write; raised on all, and the message names it.
    """
    from fusedface.models.shard_writer import write_rows  # two seconds to import

    folder = Path(processes.from_first(lambda: str(_new_folder(checkpoints, step))))
    assert processes.control is not None
    described = write_rows(rows, shard, folder, processes.control)
    processes.from_first(lambda: sync_folder(folder))
    return described


def remove_unused(checkpoints: Path) -> None:
    """Remove the folders that no checkpoint names.

    Nothing is removed while a checkpoint cannot be read: it may be restored, and then needs its folder.
    """
    for folder in _unused(checkpoints):
        shutil.rmtree(folder, ignore_errors=True)


def set_aside_unused(checkpoints: Path, names: Collection[str], suffix: str) -> None:
    """Rename the folders of some checkpoints that no other checkpoint names.

    Args:
        checkpoints: the folder of the checkpoints.
        names: of the checkpoints, without ".pt".
        suffix: what is added to the name of a folder.
    """
    for folder in _unused(checkpoints):
        if folder.name.startswith(tuple(names)):
            aside = folder.with_name(folder.name + suffix)
            shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
            folder.rename(aside)


def _unused(checkpoints: Path) -> list[Path]:
    """The folders that no checkpoint names; none while a checkpoint cannot be read."""
    found = [*checkpoints.glob(f"*{SUFFIX}")]
    if not found:
        return []
    try:
        used = {_folder_of(path) for path in checkpoints.glob("*.pt")}
    except Exception:  # damaged files fail in torch in many ways
        return []
    return [folder for folder in found if folder.name not in used]


def _new_folder(checkpoints: Path, step: int) -> Path:
    checkpoints.mkdir(exist_ok=True)  # not its parents: a deleted run must not come back
    for number in count(1):
        again = f"-{number}" if number > 1 else ""
        folder = checkpoints / f"step-{step:08d}{again}{SUFFIX}"
        if not folder.exists():
            folder.mkdir()
            return folder
    raise AssertionError  # unreachable: count() does not end


def _folder_of(path: Path) -> str | None:
    """The folder that a checkpoint names, without reading its tensors."""
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return content[SHARDS]["folder"] if SHARDS in content else None
