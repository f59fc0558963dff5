"""The negatives as margins describe them and backends return them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Reweighting(NamedTuple):
    """N of a hard negative, `square c^2 + linear c + constant`, with square >= 0.

    `linear` may be a 0-d tensor that stays on the device. With square >= 0 a larger cosine is never
    modulated less, so the extremes of the slope are those of the cosine.
    """

    square: float = 0.0
    linear: float | Tensor = 1.0
    constant: float = 0.0

    def value(self, cos: Tensor) -> Tensor:
        """N(cos), of any shape."""
        return (self.square * cos + self.linear) * cos + self.constant

    def slope(self, cos: Tensor) -> Tensor:
        """The modulation dN/dcos, of any shape."""
        return 2.0 * self.square * cos + self.linear


class NegativeStats(NamedTuple):
    """Per row, over the negatives, without gradient; all (B,) in the compute dtype.

    The slope is dN/dc over the hard negatives: a row without any has +inf, -inf and 0.
    """

    max_cosine: Tensor
    num_hard: Tensor
    slope_min: Tensor
    slope_max: Tensor
    slope_sum: Tensor


def modulation_of(
    num_hard: Tensor, slope_min: Tensor, slope_max: Tensor, slope_sum: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Smallest, mean and largest slope of a batch, 0-d, NaN without hard negatives; of `NegativeStats`."""
    count = num_hard.sum()
    none = count == 0
    return (
        slope_min.amin().masked_fill(none, torch.nan),
        slope_sum.sum() / count,  # 0 / 0 without any
        slope_max.amax().masked_fill(none, torch.nan),
    )
