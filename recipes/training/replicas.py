"""One backbone on several processes, with averaged gradients and batch statistics of the whole batch.

With both, and class centres split over the processes (`MarginHead`, `process_group`), a step equals that of
a single process with the whole batch.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fusedface.models import Backbone
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.precision import Precision
from fusedface.recipes.training.shared_norm import SharedBatchNorm


def synchronise(model: Backbone, processes: Processes) -> Backbone:
    """Make batch normalisation use the statistics of the rows of all processes.

    Parameters, buffers and their names do not change.
    """
    if processes.group is None:
        return model
    if next(model.parameters()).device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # pyright: ignore[reportReturnType]
    for parent in [*model.modules()]:
        for name, layer in [*parent.named_children()]:
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, SharedBatchNorm(layer, processes.group))
    return model


def replicate(model: Backbone, processes: Processes) -> nn.Module:
    """The module that embeds images in training; its backward averages the gradients of all processes."""
    if processes.group is None or not any(p.requires_grad for p in model.parameters()):
        return model
    # Buffers are the same everywhere. The name of the option is new in torch 2.13.
    parameters = inspect.signature(DistributedDataParallel).parameters
    buffers = (
        "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    )
    options: dict[str, Any] = {buffers: False}
    return DistributedDataParallel(
        _WithUnused(model),
        process_group=processes.group,
        # Otherwise all steps after the first sum in another order than the first, and a run that
        # goes on from a checkpoint would differ from one that was never stopped.
        find_unused_parameters=True,
        **options,
    )


class _WithUnused(nn.Module):
    """A network with an unused parameter, because DDP warns if it finds none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.unused = nn.Parameter(next(model.parameters()).detach().new_zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def grad_scaler(precision: Precision, processes: Processes) -> torch.amp.GradScaler:
    """As `Precision.grad_scaler`; if one process has to skip a step, all skip it."""
    scaler = precision.grad_scaler()
    if processes.group is None or not scaler.is_enabled():
        return scaler
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

    return ShardedGradScaler(precision.device.type, process_group=processes.group)
