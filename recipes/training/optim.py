"""The optimiser: SGD with Nesterov momentum, and which parameters are decayed by how much."""

from typing import Any

import torch
from torch import Tensor

from fusedface.models import MarginHead
from fusedface.models.backbone import Backbone
from fusedface.recipes.configuration.recipe import Optim


def parameter_groups(model: Backbone, head: MarginHead, optim: Optim) -> list[dict[str, Any]]:
    """Every parameter of backbone and head in exactly one group, with its weight decay.

    "backbone" (`optim.weight_decay`): weights before the embedding layers. "head"
    (`optim.weight_decay_head`): weights of the embedding layers, and the class centres. "undecayed"
    (0): vectors, so biases, slopes of PReLU, and what multiplies channels or heads, of normalisations
    for example; of the embedding layers too. This is the split of the MobileFaceNets paper
    (arXiv:1804.07573, section 4.1) with nothing decayed that is no matrix and no filter.
    """
    backbone: list[Tensor] = []
    decayed_more: list[Tensor] = []
    undecayed: list[Tensor] = []
    in_embedding = {id(parameter) for parameter in model.embedding.parameters()}
    for parameter in model.parameters():
        if parameter.ndim < 2:
            undecayed.append(parameter)
        elif id(parameter) in in_embedding:
            decayed_more.append(parameter)
        else:
            backbone.append(parameter)
    decayed_more.extend(head.parameters())
    return [
        {"name": "backbone", "params": backbone, "weight_decay": optim.weight_decay},
        {"name": "head", "params": decayed_more, "weight_decay": optim.weight_decay_head},
        {"name": "undecayed", "params": undecayed, "weight_decay": 0.0},
    ]


def build_optimizer(model: Backbone, head: MarginHead, optim: Optim) -> torch.optim.SGD:
    """SGD with Nesterov momentum over `parameter_groups`."""
    groups = parameter_groups(model, head, optim)
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=True)
