"""What the loops of batch normalisation read and return."""

from typing import NamedTuple

from torch import Tensor

MAX_CHANNELS = 2048  # as in norm.c
ACTIVATIONS = ("linear", "prelu", "relu")  # in the order of norm.c


class Affine(NamedTuple):
    """What follows the normalisation: weight and bias (C,), one of `ACTIVATIONS`, PReLU's slope (C,)."""

    weight: Tensor
    bias: Tensor
    activation: str
    slope: Tensor | None


class Statistics(NamedTuple):
    """Of a batch, (C,) each: mean, 1 / sqrt(biased variance + eps), unbiased variance."""

    mean: Tensor
    inverse: Tensor
    variance: Tensor
