"""A checkpoint to begin a run with."""

import torch

from fusedface.models import create

SIZE = {"embedding_dim": 16, "input_size": (32, 32), "width": 0.25}


def write_checkpoint(path, people=(), centres=None, network=SIZE, **changes):
    """A backbone none of whose tensors is as drawn, with preprocessing that is not the usual one."""
    torch.manual_seed(3)
    model = create("mobilefacenet", **network)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand_like(value))
    prepared = model.preprocessing.as_dict() | {"mean": [100.0, 110.0, 120.0], "flip": "concat"}
    content = {
        "format": "fusedface-checkpoint", "version": 1, "step": 7, "backbone": model.config,
        "preprocessing": prepared, "model": model.state_dict(),
    }  # fmt: skip
    if people:
        content |= {"classes": list(people), "head": {"weight": centres}}
    torch.save(content | changes, path)
    return path
