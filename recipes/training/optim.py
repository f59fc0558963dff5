"""The optimiser: SGD with Nesterov momentum, and which parameters are decayed by how much."""

from typing import Any

import torch
from torch import Tensor, nn

from fusedface.models import MarginHead
from fusedface.models.backbone import Backbone
from fusedface.recipes.configuration.recipe import Optim

# Their parameters are offsets and slopes: decaying those changes the function, not its size.
UNDECAYED = (nn.modules.batchnorm._BatchNorm, nn.PReLU)


def parameter_groups(model: Backbone, head: MarginHead, optim: Optim) -> list[dict[str, Any]]:
    """Every parameter of backbone and head in exactly one group, with its weight decay.

    "backbone" (`optim.weight_decay`): weights before the embedding layers. "head"
    (`optim.weight_decay_head`): weights of the embedding layers, and the class centres. "undecayed"
    (0): batch normalisation, PReLU and biases, of the embedding layers too. This is the split of the
    MobileFaceNets paper (arXiv:1804.07573, section 4.1) with nothing decayed that has no scale.
    """
    backbone: list[Tensor] = []
    decayed_more: list[Tensor] = []
    undecayed: list[Tensor] = []
    in_embedding = {id(parameter) for parameter in model.embedding.parameters()}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, UNDECAYED) or name == "bias":
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
