"""Records what makes the host wait for a GPU, on tensors without data."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

# PyTorch's operators that read a value, or whose shape depends on one.
READING_OPERATORS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")


def reads(name, args):
    """Whether an operator is one of `READING_OPERATORS`, and would be started on a GPU, too.

    `nanquantile` checks its quantiles on CPUs only; torch 2.11 does so by `equal` of two truth values.
    """
    is_check = name == "equal" and all(arg.ndim == 0 and arg.dtype == torch.bool for arg in args)
    return name in READING_OPERATORS and not is_check


class Watch(TorchFunctionMode):
    """Records calls, and among them those that make the host wait or whose shape depends on values."""

    READING = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")
    BY_VALUE = ("nonzero", "masked_select", "unique", "argwhere", "equal", "allclose")
    FROM_HOST = ("new_tensor", "tensor", "as_tensor", "copy_")

    def __init__(self):
        super().__init__()
        self.waiting, self.called = [], set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = func.__name__
        self.called.add(name)
        masks = name in ("__getitem__", "__setitem__") and any(
            isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool
            for leaf in tree_leaves(args[1])
        )
        if name in self.READING + self.BY_VALUE + self.FROM_HOST or masks:
            self.waiting.append(name)
        return func(*args, **(kwargs or {}))
