"""Checkpoints hold all class centres with their optimiser state, whatever number of processes has them.

Every rank calls what is here; a head of a single process is whole as it is.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fusedface.models import MarginHead
from fusedface.recipes.training.checkpoint import Checkpoint

State = dict[str, Any]


def whole_head(head: MarginHead) -> dict[str, Tensor]:
    """The `state_dict` of all class centres, on rank 0; without them elsewhere."""
    if head.shard is None:
        return head.state_dict()
    return head.full_state_dict()


def whole_optimizer(optimizer: torch.optim.Optimizer, head: MarginHead) -> State:
    """The `state_dict` of an optimiser over all class centres, on rank 0; of other parameters elsewhere."""
    content = optimizer.state_dict()
    if head.shard is None:
        return content
    index = _centres_of(optimizer, head)
    states = dict(content["state"])
    if index in states:
        states[index] = {
            name: head.shard.collect(value) if _is_of_rows(value, head) else value
            for name, value in states[index].items()
        }
    return content | {"state": states}


def own_part(
    checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, head: MarginHead
) -> Checkpoint:
    """A checkpoint with what it has of this rank's class centres; what is damaged stays as it is."""
    if head.shard is None:
        return checkpoint
    classes, index = slice(head.classes.start, head.classes.stop), _centres_of(optimizer, head)
    size = (head.num_classes, head.embedding_dim)

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


def _centres_of(optimizer: torch.optim.Optimizer, head: MarginHead) -> int:
    """The number that the optimiser's `state_dict` gives the class centres."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return next(i for i, parameter in enumerate(parameters) if parameter is head.weight)


def _is_of_rows(value: object, head: MarginHead) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == head.weight.shape
