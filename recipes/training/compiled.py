"""A function under torch.compile for one shape of input."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Compiled:
    """Compiles a function at its first call; inputs of another shape later run it as it is.

    So no shape is compiled that occurs once in a while.

    Args:
        function: a function or a network; its first argument decides.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._plain = function
        self._fast = torch.compile(function, dynamic=False)
        self._shape: torch.Size | None = None

    def __call__(self, inputs: Tensor, *more: Tensor) -> Any:
        """The result of the function."""
        if self._shape is None:
            self._shape = inputs.shape
        return (self._fast if inputs.shape == self._shape else self._plain)(inputs, *more)
