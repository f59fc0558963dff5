"""The rows of the class centres, and of their optimiser state, that a process saves and loads.

With one process they are in the checkpoint. With several, each process writes its own to a file
(`shard_folder.py`), and the checkpoint has everything else. Either kind is read by any number of processes.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusedface.models.shard_files import ShardFiles

if TYPE_CHECKING:
    from fusedface.recipes.training.checkpoint import Checkpoint

State = dict[str, Any]
Rows = dict[str, Tensor]

WEIGHT = "weight"
"""The class centres among the rows; the others have the names of the optimiser's state."""


def own_rows(optimizer: torch.optim.Optimizer, centres: Tensor) -> Rows:
    """The class centres of this process (C_r, D), and their optimiser state, on their device.

    Args:
        optimizer: over the class centres and other parameters.
        centres: the class centres.
    """
    state = optimizer.state.get(centres, {})
    return {WEIGHT: centres.detach()} | {
        name: value for name, value in state.items() if _is_of_rows(value, centres)
    }


def without_rows(content: State, optimizer: torch.optim.Optimizer, centres: Tensor) -> State:
    """The entries of a checkpoint without the rows of `own_rows`."""
    index = _index_of(optimizer, centres)
    states = dict(content["optimizer"]["state"])
    if index in states:
        states[index] = {k: v for k, v in states[index].items() if not _is_of_rows(v, centres)}
    head = {name: value for name, value in content["head"].items() if name != WEIGHT}
    return content | {"head": head, "optimizer": content["optimizer"] | {"state": states}}


def with_rows(
    checkpoint: "Checkpoint",
    optimizer: torch.optim.Optimizer,
    centres: Tensor,
    classes: range,
    num: int,
) -> "Checkpoint":
    """A checkpoint with the rows of this process, wherever they were; damaged entries stay as they are.

    Args:
        checkpoint: of any number of processes.
        optimizer: over the class centres and other parameters.
        centres: the class centres of this process (len(classes), D).
        classes: which these are.
        num: C, the number of all classes.

    Raises:
        ValueError: its files of class centres do not fit, or are damaged.
    """
    size = (num, centres.shape[1])
    rows = _rows_in_files(checkpoint, classes, size)
    index = _index_of(optimizer, centres)
    own: Callable[[object], object] = lambda values: _sliced(values, classes, size)  # noqa: E731
    content = dict(checkpoint.content)
    content["head"] = _joined(own(content.get("head")), {k: rows[k] for k in rows if k == WEIGHT})
    found = content.get("optimizer")
    if isinstance(found, dict) and isinstance(states := found.get("state"), dict):
        momentum = {name: value for name, value in rows.items() if name != WEIGHT}
        if index in states or momentum:
            states = states | {index: _joined(own(states.get(index, {})), momentum)}
        content["optimizer"] = found | {"state": states}
    return replace(checkpoint, content=content)


def _rows_in_files(checkpoint: "Checkpoint", classes: range, size: tuple[int, int]) -> Rows:
    """The rows in the files of a checkpoint; none if it has no files."""
    files = ShardFiles.of(checkpoint.path, checkpoint.content)
    if files is None:
        return {}
    for name, saved in files.tensors.items():
        if saved.size != size:
            raise checkpoint.unusable(
                f"its {name} of the class centres is {saved.size} instead of {size}"
            )

    from fusedface.models.shard_reader import read_rows  # two seconds to import

    return read_rows(files, classes)


def _sliced(values: object, classes: range, size: tuple[int, int]) -> object:
    """The rows of `classes` of every tensor of all class centres."""
    if not isinstance(values, dict):
        return values
    rows = slice(classes.start, classes.stop)
    return {
        name: value[rows] if _is_whole(value, size) else value for name, value in values.items()
    }


def _is_whole(value: Any, size: tuple[int, int]) -> bool:
    """Whether a value has a row of numbers for each class; a sparse tensor would not be sliced."""
    return isinstance(value, Tensor) and value.shape == size and value.layout == torch.strided


def _joined(values: object, rows: Rows) -> object:
    return values | rows if isinstance(values, dict) else values


def _index_of(optimizer: torch.optim.Optimizer, centres: Tensor) -> int:
    """The index of the class centres in the optimiser's `state_dict`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return next(i for i, parameter in enumerate(parameters) if parameter is centres)


def _is_of_rows(value: object, centres: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == centres.shape
