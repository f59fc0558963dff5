"""The signature of every head that is timed, and the margin and scale of all."""

from collections.abc import Callable

from torch import Tensor

M, S = 0.5, 64.0
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps embeddings (B, D), class centres (C, D) and labels (B,) to the mean loss of the batch."""
