"""The signature of every head that is timed, the margin and scale of all, and whose times are compared."""

from collections.abc import Callable

from torch import Tensor

M, S = 0.5, 64.0
BASE_PRECISIONS = ("float32", "bfloat16")  # of our heads, the denominators of ratios
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps embeddings (B, D), class centres (C, D) and labels (B,) to the mean loss of the batch."""
