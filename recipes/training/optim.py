"""The optimiser, and which parameters are decayed by how much and learn at which rate."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusedface.models import update_only_sampled
from fusedface.models.backbone import Backbone
from fusedface.recipes.configuration.training import Optim

if TYPE_CHECKING:
    from fusedface.models import MarginHead

CENTRES = "centres"
PROJECTION = "projection"


def parameter_groups(model: Backbone, head: "MarginHead", optim: Optim) -> list[dict[str, Any]]:
    """Every parameter of backbone and head in exactly one group, with its weight decay and rate.

    "backbone" (`optim.weight_decay`): weights before the embedding layers. "embedding"
    (`optim.weight_decay_head`): weights of the embedding layers. CENTRES (the same): the class centres,
    which learn at `optim.lr_head`. "undecayed" (0): vectors, so biases, slopes of PReLU, and what
    multiplies channels or heads, of normalisations for example; of the embedding layers too. This is the
    split of the MobileFaceNets paper (arXiv:1804.07573, section 4.1) with nothing decayed that is no
    matrix and no filter. "lr_factor" is a group's rate over that of the schedule.
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
    factor = 1.0 if optim.lr_head is None else optim.lr_head / optim.lr
    more = optim.weight_decay_head
    usual, own = {"lr_factor": 1.0}, {"lr_factor": factor}
    return [
        {"name": "backbone", "params": backbone, "weight_decay": optim.weight_decay, **usual},
        {"name": "embedding", "params": decayed_more, "weight_decay": more, **usual},
        {"name": CENTRES, "params": [*head.parameters()], "weight_decay": more, **own},
        {"name": "undecayed", "params": undecayed, "weight_decay": 0.0, **usual},
    ]


def build_optimizer(
    model: Backbone, head: "MarginHead", optim: Optim, others: Iterable[Tensor] = ()
) -> torch.optim.Optimizer:
    """`optim.kind` over `parameter_groups`; `others` learn like the embedding layers.

    Of sampled class centres, it moves those of the sample.
    """
    groups = parameter_groups(model, head, optim)
    if projection := [*others]:
        own = {"weight_decay": optim.weight_decay_head, "lr_factor": 1.0}
        groups.append({"name": PROJECTION, "params": projection, **own})
    if optim.kind == "adamw":
        adamw = torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.momentum, optim.beta2))
        return update_only_sampled(adamw)
    sgd = torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=True)
    if optim.fuse_centres:
        head.fuse(sgd)
    return update_only_sampled(sgd)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of the schedule's rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def centre_rate(optimizer: torch.optim.Optimizer) -> tuple[float, float | None]:
    """The learning rate of the class centres, and SGD's momentum.

    No momentum, None, has another optimiser, and centres that no gradient moves.
    """
    group = next(group for group in optimizer.param_groups if group["name"] == CENTRES)
    learns = any(centres.requires_grad for centres in group["params"])
    return group["lr"], group.get("momentum") if learns else None
