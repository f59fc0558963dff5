"""Random numbers by counter: a pure function of (seed, stream, who, which), in any order, on any device.

SplitMix64 (Steele, Lea and Flood, 2014) on int64 tensors, whose arithmetic wraps.
"""

import torch
from torch import Tensor

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def uniforms(seed: int, stream: int, keys: tuple[Tensor, ...], count: int) -> Tensor:
    """Independent uniform numbers in [0, 1).

    Args:
        seed: of the whole.
        stream: what they are for; streams are independent.
        keys: int64 tensors (N,), which together name the row.
        count: numbers a row.

    Returns:
        (N, count) float64.
    """
    start = torch.full_like(keys[0], seed)
    state = _mix(_mix(start + _GAMMA) + _wrapped(_GAMMA * (stream + 1)))
    for key in keys:
        state = _mix(state + _GAMMA * (key + 1))
    steps = torch.arange(1, count + 1, device=state.device)
    bits = _mix(state[:, None] + _GAMMA * steps)
    return _shift(bits, 11).double() * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _wrapped(value: int) -> int:
    """The int64 that this many wraps around to."""
    return (value + 2**63) % 2**64 - 2**63


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
