"""A step of an optimiser on the rows that a sparse gradient has, and on no others.

With `sample_rate` below 1 the gradient of the class centres is sparse: it has only the sampled rows
(`kernels/sampling.py`). Torch's optimisers refuse that, or move all rows by momentum and weight decay.
"""

import copy
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Swapped = list[tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]]


def update_only_sampled(optimizer: Optimizer) -> Optimizer:
    """Let `optimizer`, and deep copies of it, change only the rows of each sparse gradient; call this once.

    A row that is not sampled keeps its weights and its state (momentum) to the bit. When it is
    sampled again, even much later, it makes one ordinary step, as in Partial FC: missed steps are not
    made up for. Dense gradients change all rows, as usual. State in `optimizer.state_dict()` has the
    parameter's shape, also after a step that raises an error.

    Args:
        optimizer: any of torch.optim that treats each element of a parameter independently, as SGD,
            Adam and AdamW do, and needs no closure.

    Returns:
        The optimiser itself.
    """
    original = optimizer.step

    def step(self: Optimizer, *arguments: Any, **options: Any) -> Any:
        swapped: Swapped = []
        try:
            _swap_in(self, swapped)
            return original(*arguments, **options)
        finally:
            _swap_out(self, swapped)

    # A method, as learning rate schedules expect when they count the steps.
    optimizer.step = MethodType(step, optimizer)
    optimizer.__deepcopy__ = MethodType(_copied, optimizer)  # pyright: ignore[reportAttributeAccessIssue]
    return optimizer


def _copied(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
    """Called by `copy.deepcopy`, which by itself takes only what `state_dict` has."""
    reduced: Any = optimizer.__reduce_ex__(4)
    make, arguments, state, *_ = reduced
    copied = make(*arguments)
    memo[id(optimizer)] = copied
    copied.__setstate__(copy.deepcopy(state, memo))
    return update_only_sampled(copied)


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
        sampled = {name: value[rows] for name, value in full.items()}
        weights, values = whole[rows], gradient.values().to(whole.dtype)
        # Nothing below needs memory: an error comes before a row has left.
        swapped.append((parameter, whole, gradient, full))
        state.update(sampled)
        parameter.grad = None
        parameter.data = weights
        parameter.grad = values


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


def _is_like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == parameter.shape
