"""The learning rates of an optimiser's groups."""

import torch
from torch import Tensor

CENTRES = "centres"
"""The name of the group of the class centres."""


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group to its `lr_factor` times `lr`."""
    for group in optimizer.param_groups:
        rate = lr * group["lr_factor"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def rates_on_device(optimizer: torch.optim.Optimizer, *, on: bool) -> None:
    """Keep rates, and AdamW's number of steps, on the device, where a recorded step reads them; or not."""
    for group in optimizer.param_groups:
        if not group["params"] or isinstance(group["lr"], Tensor) == on:
            continue
        device = group["params"][0].device
        group["lr"] = torch.full((), group["lr"], device=device) if on else float(group["lr"])
        if "capturable" in group:
            group["capturable"] = on
            for state in (optimizer.state.get(parameter, {}) for parameter in group["params"]):
                if "step" in state:
                    state["step"] = state["step"].to(device if on else "cpu")


def centre_rate(optimizer: torch.optim.Optimizer) -> tuple[float, float | None]:
    """The learning rate of the class centres, and SGD's momentum.

    The momentum is None for another optimiser, and for class centres without a gradient.
    """
    group = next(group for group in optimizer.param_groups if group["name"] == CENTRES)
    learns = any(centres.requires_grad for centres in group["params"])
    return float(group["lr"]), group.get("momentum") if learns else None
