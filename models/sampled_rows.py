"""A step of an optimiser on the rows that a sparse gradient has, and on no others.

With `sample_rate` below 1 the gradient of the class centres is sparse: it has only the sampled rows
(`kernels/sampling.py`). Torch's optimisers refuse that, or move all rows by momentum and weight decay.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Swapped = list[tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]]


def update_only_sampled(optimizer: Optimizer) -> Optimizer:
    """Let `optimizer` change only the rows of each sparse gradient; call this once, after making it.

    A row that is not sampled keeps its weights and its state (momentum) to the bit. When it is
    sampled again, even much later, it makes one ordinary step, as in Partial FC: missed steps are not
    made up for. Dense gradients change all rows, as usual. State in `optimizer.state_dict()` has the
    parameter's shape.

    A step that raises an error leaves a parameter with only its sampled rows: read a checkpoint then.

    Args:
        optimizer: any of torch.optim that treats each element of a parameter independently, as SGD,
            Adam and AdamW do, and needs no closure.

    Returns:
        The optimiser itself.
    """
    swapped: Swapped = []
    optimizer.register_step_pre_hook(lambda o, *_: _swap_in(o, swapped))
    optimizer.register_step_post_hook(lambda o, *_: _swap_out(o, swapped))
    return optimizer


def stored(gradient: Tensor) -> Tensor:
    """The numbers that a gradient holds: itself, or the rows (K, D) of a sparse one."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


@torch.no_grad()
def _swap_in(optimizer: Optimizer, swapped: Swapped) -> None:
    """Replace each parameter with a sparse gradient, and its state, by the rows of that gradient."""
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        gradient = parameter.grad
        if gradient is None or not gradient.is_sparse:
            continue
        # Not `.data`: PyTorch would not count writes through it as writes to the parameter.
        gradient, whole = gradient.coalesce(), parameter.detach()
        rows = gradient.indices()[0]
        state = optimizer.state.get(parameter, {})
        full = {name: value for name, value in state.items() if _is_like(value, whole)}
        swapped.append((parameter, whole, gradient, full))
        for name, value in full.items():
            state[name] = value[rows]
        parameter.grad = None
        parameter.data = whole[rows]
        parameter.grad = gradient.values().to(whole.dtype)


@torch.no_grad()
def _swap_out(optimizer: Optimizer, swapped: Swapped) -> None:
    """Put the rows back into the whole parameters and their state."""
    for parameter, whole, gradient, full in swapped:
        rows, state = gradient.indices()[0], optimizer.state[parameter]
        for name, value in [*state.items()]:
            if _is_like(value, parameter.data):
                target = full.get(name)
                target = torch.zeros_like(whole, dtype=value.dtype) if target is None else target
                state[name] = target.index_copy_(0, rows, value)
        whole.index_copy_(0, rows, parameter.data)
        parameter.grad = None
        parameter.data = whole
        parameter.grad = gradient
    swapped.clear()


def _is_like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == parameter.shape
