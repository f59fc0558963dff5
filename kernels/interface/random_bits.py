"""Random bits by counter: a pure function of a seed and a number, in any order, on any device.

SplitMix64 (Steele, Lea and Flood, 2014) on int64 tensors, whose arithmetic wraps.
"""

from torch import Tensor

GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15
MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def random_bits(seed: Tensor, numbers: Tensor) -> Tensor:
    """64 bits for each of `numbers`, int64 of any shape; independent for each seed, 0-d int64."""
    return mix(mix(seed + GAMMA) + GAMMA * (numbers + 1))


def mix(x: Tensor) -> Tensor:
    """Scramble x, int64: every bit of the result depends on every bit of x."""
    x = (x ^ shift(x, 30)) * MIX_1
    x = (x ^ shift(x, 27)) * MIX_2
    return x ^ shift(x, 31)


def shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
