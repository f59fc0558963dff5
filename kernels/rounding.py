"""Stochastic rounding to bfloat16, so that small steps are not lost: E[rounded] is the number itself."""

import torch
from torch import Tensor

from fusedface.kernels.interface.random_bits import random_bits

LOW_BITS = 0xFFFF  # of a float32, which bfloat16 lacks
PER_DRAW = 4  # of 16 bits, in one of 64


def rounded(values: Tensor, seed: Tensor, first_row: int) -> Tensor:
    """`values` (K, D) in bfloat16, rounded up or down; the nearer neighbour is the more probable one.

    Args:
        values: float32, or float64, which is rounded to float32 first.
        seed: 0-d int64; together with the row and column of a number it decides up or down.
        first_row: index of the first row, so that rows are rounded alike in chunks and all at once.
    """
    values = values.float()
    num_rows, dim = values.shape
    draws = -(-dim // PER_DRAW)
    first, last = first_row * draws, (first_row + num_rows) * draws
    bits = random_bits(seed, torch.arange(first, last, device=values.device))
    noise = bits.view(torch.int16).view(num_rows, -1)[:, :dim].int().bitwise_and_(LOW_BITS)
    # Adding to the pattern of a float moves its magnitude; a carry is the next number up.
    moved = noise.add_(values.view(torch.int32)).bitwise_and_(~LOW_BITS).view(torch.float32)
    return torch.where(values.isfinite(), moved, values).to(torch.bfloat16)
