"""What every head that is timed computes, and the margin and scale that all have."""

from collections.abc import Callable

from torch import Tensor

M, S = 0.5, 64.0
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Embeddings (B, D), class centres (C, D) and labels (B,) to the mean loss of the batch."""
