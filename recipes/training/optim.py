"""The optimiser, and the weight decay of each group of parameters."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusedface.kernels import CentreSGD
from fusedface.models import update_only_sampled
from fusedface.models.backbone import Backbone
from fusedface.recipes.configuration.optim import Optim
from fusedface.recipes.training.rates import CENTRES
from fusedface.recipes.training.untraced import untraced

if TYPE_CHECKING:
    from fusedface.models import MarginHead

PROJECTION = "projection"


def parameter_groups(model: Backbone, head: "MarginHead", optim: Optim) -> list[dict[str, Any]]:
    """Groups with a weight decay and a rate each; every parameter of backbone and head is in one of them.

    "backbone" has the weights before the embedding layers, decayed by `optim.weight_decay`. "embedding" has
    the weights of the embedding layers, decayed by `optim.weight_decay_head`. CENTRES has the class
    centres, with the same decay and the rate `optim.lr_head`. "undecayed" has all vectors: biases, PReLU
    slopes, and factors of channels or heads, such as those of normalisations, also in the embedding layers.
    The split is that of the MobileFaceNets paper (arXiv:1804.07573, section 4.1); only matrices and filters
    are decayed. "lr_factor" is the rate of a group over that of the schedule.
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
    more = optim.weight_decay_head
    usual, own = {"lr_factor": 1.0}, {"lr_factor": optim.centres_factor}
    return [
        {"name": "backbone", "params": backbone, "weight_decay": optim.weight_decay, **usual},
        {"name": "embedding", "params": decayed_more, "weight_decay": more, **usual},
        {"name": CENTRES, "params": [*head.parameters()], "weight_decay": more, **own},
        {"name": "undecayed", "params": undecayed, "weight_decay": 0.0, **usual},
    ]


def build_optimizer(
    model: Backbone, head: "MarginHead", optim: Optim, others: Iterable[Tensor] = ()
) -> torch.optim.Optimizer:
    """The optimiser `optim.kind` over `parameter_groups`; `others` are treated like the embedding layers.

    If class centres are sampled, it updates only those of the sample. "sgd" on a GPU steps the class
    centres in one kernel (`CentreSGD`) where each step changes all of them, from a whole gradient.
    """
    groups = parameter_groups(model, head, optim)
    if projection := [*others]:
        own = {"weight_decay": optim.weight_decay_head, "lr_factor": 1.0}
        groups.append({"name": PROJECTION, "params": projection, **own})
    optimizer = _kind_of(optim, groups, head)
    return optimizer if head.options.sample_rate == 1.0 else update_only_sampled(optimizer)


def _kind_of(
    optim: Optim, groups: list[dict[str, Any]], head: "MarginHead"
) -> torch.optim.Optimizer:
    # A run on a GPU compiles, and so imports the tracer in any case.
    is_eager = not _is_on_gpu(head.weight)
    if optim.kind == "adamw":
        adamw = untraced(torch.optim.AdamW) if is_eager else torch.optim.AdamW
        return adamw(groups, lr=optim.lr, betas=(optim.momentum, optim.beta2))
    if _kernel_steps(head, optim):
        return CentreSGD(groups, head.weight, optim.lr, optim.momentum, nesterov=True)
    sgd = untraced(torch.optim.SGD) if is_eager else torch.optim.SGD
    optimizer = sgd(groups, lr=optim.lr, momentum=optim.momentum, nesterov=True)
    if optim.fuse_centres:
        momentum = optim.centres_momentum_dtype or optim.centres_dtype
        dtype = torch.bfloat16 if momentum == "bfloat16" else None
        head.fuse(optimizer, momentum_dtype=dtype)
    return optimizer


def _kernel_steps(head: "MarginHead", optim: Optim) -> bool:
    """Whether the kernel of `CentreSGD` steps these class centres."""
    is_whole = head.options.sample_rate == 1.0 and not optim.fuse_centres
    return is_whole and _is_on_gpu(head.weight)


def _is_on_gpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda"


def prepare_graphs(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Let graphs keep unit rows, from their first rehearsal on; gives what comes before each replay."""
    if not isinstance(optimizer, CentreSGD):
        return lambda: None
    optimizer.keep_in_graphs()
    return optimizer.before_replay


def plain_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its `state_dict`, with rates as numbers."""
    state = optimizer.state_dict()
    groups = [group | {"lr": float(group["lr"])} for group in state["param_groups"]]
    return state | {"param_groups": groups}
