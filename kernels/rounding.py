"""Stochastic rounding to bfloat16, so that small steps are not lost: E[rounded] is the number itself."""

import torch
from torch import Tensor

from fusedface.kernels.interface.random_bits import random_bits

LOW_BITS = 0xFFFF  # of a float32, which bfloat16 lacks
PER_DRAW = 4  # of 16 bits, in one of 64


def rounded(values: Tensor, seed: Tensor, rows: int | Tensor) -> Tensor:
    """`values` (K, D) in bfloat16, rounded up or down; the nearer neighbour is the more probable one.

    Args:
        values: float32, or float64, which is rounded to float32 first.
        seed: 0-d int64; together with the row and column of a number it decides up or down.
        rows: indices (K,) of the rows, or that of the first of consecutive rows: rows are rounded alike in
            chunks and all at once.
    """
    values = values.float()
    num_rows, dim = values.shape
    draws = -(-dim // PER_DRAW)
    if not isinstance(rows, Tensor) or rows.dim() == 0:
        rows = torch.arange(num_rows, device=values.device) + rows
    numbers = rows[:, None] * draws + torch.arange(draws, device=values.device)
    bits = random_bits(seed, numbers.view(-1))
    noise = bits.view(torch.int16).view(num_rows, -1)[:, :dim].int().bitwise_and_(LOW_BITS)
    # Adding to the pattern of a float moves its magnitude; a carry is the next number up.
    moved = noise.add_(values.view(torch.int32)).bitwise_and_(~LOW_BITS).view(torch.float32)
    return torch.where(values.isfinite(), moved, values).to(torch.bfloat16)
