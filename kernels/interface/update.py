"""A step of SGD that a backward makes itself, on the class centres of one chunk after another.

It needs no gradient of size C x D, and no pass over all class centres afterwards.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Sampled(NamedTuple):
    """The rows of the class centres that a backend was given as its class centres, in a copy."""

    weight: Tensor
    """(C, D), all class centres, where the rows belong."""
    rows: Tensor
    """(K,) int64, rising."""
    version: int
    """Of `weight` in the forward. Another one in the backward is an error: the copy is old."""


@dataclass(frozen=True, eq=False)
class CentreUpdate:
    """SGD as torch.optim.SGD has it, without dampening; all tensors are on the device of the class centres.

    Class centres and momentum are float32, float64 or bfloat16. Rounding to bfloat16 is stochastic: up or
    down, with probabilities that keep the expectation exact.
    """

    momentum_buffer: Tensor | None
    """(C, D), changed in place; None with momentum 0."""
    lr: Tensor
    """0-d, the learning rate."""
    loss_scale: Tensor
    """0-d, the factor of the loss before its backward."""
    skip: Tensor
    """0-d bool: True changes nothing, as does an upstream gradient that is not finite."""
    seed: Tensor
    """0-d int64, of the stochastic rounding in this step."""
    momentum: float
    nesterov: bool
    weight_decay: float
    keeps_unit_rows: bool | None = None
    """Whether a backend may keep unit rows of all class centres from the forward to the backward; None:
    only where the device has the memory. The `chunked` backend never does."""
    sampled: Sampled | None = None
    """Set within `margin_loss` if classes are sampled: only these rows and their momentum change."""
    first_class: int | Tensor = 0
    """Set within `margin_loss` if processes share the classes: that of the first row, so that numbers are
    rounded as by one process."""

    def check_sample(self) -> None:
        """Raise RuntimeError if sampled class centres have changed since the forward copied them."""
        of = self.sampled
        if of is not None and of.weight._version != of.version:
            raise RuntimeError(
                "the class centres have changed between this forward and its backward: with a fused update "
                "each backward is a step, so it must follow its forward"
            )


def check_dtype(name: str, dtype: torch.dtype) -> None:
    """Raise TypeError unless numbers of this dtype can be updated: float16 has too small a range."""
    if dtype not in (torch.float32, torch.float64, torch.bfloat16):
        raise TypeError(f"{name} must be float32, float64 or bfloat16 to be updated, got {dtype}")
