"""Gathers split class centres and their optimiser state for a checkpoint, and splits them again.

A checkpoint so does not depend on the number of processes. Every rank calls these functions; for a single
process they change nothing.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fusedface.models.class_shard import ClassShard
from fusedface.recipes.training.checkpoint import Checkpoint

State = dict[str, Any]


def whole_optimizer(
    optimizer: torch.optim.Optimizer, centres: Tensor, shard: ClassShard | None
) -> State:
    """The `state_dict` of an optimiser; on rank 0 with all class centres, on other ranks without them.

    Args:
        optimizer: over the class centres and other parameters.
        centres: the class centres of this rank.
        shard: which centres these are; None if this process has all.
    """
    content = optimizer.state_dict()
    if shard is None:
        return content
    index = _centres_of(optimizer, centres)
    states = dict(content["state"])
    if index in states:
        states[index] = {
            name: shard.collect(value) if _is_of_rows(value, centres) else value
            for name, value in states[index].items()
        }
    return content | {"state": states}


def own_part(
    checkpoint: Checkpoint,
    optimizer: torch.optim.Optimizer,
    centres: Tensor,
    shard: ClassShard | None,
) -> Checkpoint:
    """A checkpoint reduced to this rank's class centres; damaged entries stay as they are."""
    if shard is None:
        return checkpoint
    classes = slice(shard.classes.start, shard.classes.stop)
    index, size = _centres_of(optimizer, centres), (shard.num_classes, centres.shape[1])

    def own(values: object) -> object:
        if not isinstance(values, dict):
            return values
        return {
            name: value[classes] if isinstance(value, Tensor) and value.shape == size else value
            for name, value in values.items()
        }

    content = dict(checkpoint.content)
    content["head"] = own(content.get("head"))
    found = content.get("optimizer")
    if isinstance(found, dict) and isinstance(states := found.get("state"), dict):
        states = states | {index: own(states[index])} if index in states else states
        content["optimizer"] = found | {"state": states}
    return replace(checkpoint, content=content)


def _centres_of(optimizer: torch.optim.Optimizer, centres: Tensor) -> int:
    """The index of the class centres in the optimiser's `state_dict`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return next(i for i, parameter in enumerate(parameters) if parameter is centres)


def _is_of_rows(value: object, centres: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == centres.shape
