"""Random numbers by counter: a pure function of (seed, stream, who, which), in any order, on any device."""

import torch
from torch import Tensor

from fusedface.kernels.interface.random_bits import GAMMA, mix, shift


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
    state = mix(mix(start + GAMMA) + _wrapped(GAMMA * (stream + 1)))
    for key in keys:
        state = mix(state + GAMMA * (key + 1))
    steps = torch.arange(1, count + 1, device=state.device)
    bits = mix(state[:, None] + GAMMA * steps)
    return shift(bits, 11).double() * 2.0**-53


def _wrapped(value: int) -> int:
    """The int64 that this many wraps around to."""
    return (value + 2**63) % 2**64 - 2**63
