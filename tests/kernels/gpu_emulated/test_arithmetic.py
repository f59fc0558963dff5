"""Roundings of the emulator against exact fractions and PyTorch."""

from fractions import Fraction

import numpy as np
import torch
from ptx_emulator.arithmetic import (
    bf16_bits,
    bf16_values,
    float_to_int,
    fma_f32,
    tf32_bits,
    truncated_division,
)


def test_fused_multiply_add_rounds_once():
    g = np.random.default_rng(0)
    a, b = (g.standard_normal(20_000).astype(np.float32) for _ in range(2))
    c = (-a * b * np.float32(2) ** g.integers(-30, 30, a.shape)).astype(np.float32)
    # A tie of float32 after rounding to float64: 1 + 2^-24 + what float64 has no room for.
    a = np.append(a, np.float32([1 + 2**-12, 1 + 2**-12]))
    b = np.append(b, np.float32([2**-30 * (1 + 2**-12)] * 2))
    c = np.append(c, np.float32([1, 2**24 + 2]))
    got = fma_f32(a, b, c)
    for x, y, z, result in zip(a, b, c, got, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        best = abs(Fraction(float(result)) - exact)
        for neighbour in np.nextafter(result, np.float32([-np.inf, np.inf])):
            assert best <= abs(Fraction(float(neighbour)) - exact)


def test_roundings():
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, 1e-40])
    values = torch.cat([torch.randn(10_000), special])
    rounded = torch.from_numpy(bf16_values(bf16_bits(values.numpy())))
    assert torch.equal(rounded.nan_to_num(7), values.bfloat16().float().nan_to_num(7))
    halfway = np.float32([1 + 2**-11, -1 - 2**-11, 1 + 2**-11 - 2**-23])
    assert (tf32_bits(halfway).view(np.float32) == np.float32([1 + 2**-10, -1 - 2**-10, 1])).all()


def test_division_goes_towards_zero():
    a, b = np.int32([7, -7, 7, -7, 5]), np.int32([2, 2, -2, -2, 0])
    assert truncated_division(a, b).tolist() == [3, -3, -3, 3, -1]


def test_conversion_to_integers_saturates():
    values = np.float32([1.5, -1.5, 3e9, -3e9, np.nan])
    limits = np.iinfo(np.int32)
    assert float_to_int(values, np.int32, "rzi").tolist() == [1, -1, limits.max, limits.min, 0]
    assert float_to_int(values, np.int32, "rmi").tolist() == [1, -2, limits.max, limits.min, 0]
