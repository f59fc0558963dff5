"""Weights of samples by their own loss, on the device: the bound that takes the batch in, then the weights.

The formulae are those of kernels/weightings.py, which are the specification.
"""

import torch
import triton
import triton.language as tl

from fusedface.kernels.gpu.slots import OF_LENGTH, A, V
from fusedface.kernels.gpu.tile import INFINITE
from fusedface.kernels.interface.whole import Weights

BELOW, LINEAR_BELOW = (tl.constexpr(kind.value) for kind in (Weights.BELOW, Weights.LINEAR_BELOW))
LARGEST = tl.constexpr(torch.finfo(torch.float32).max)
HIGHEST_BIT, NUM_BITS = tl.constexpr(2**30), tl.constexpr(31)  # of a float32 that is not negative


@triton.jit
def weigh_rows(
    known_ptr, loss_ptr, saved_ptr, bound_ptr, used_ptr, num_rows, num_padded, first_share, growth,
    KIND: tl.constexpr, LEARNS: tl.constexpr, WITH_LENGTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Multiply losses and what `finish_kernel` saved for their gradients by their weights; one program."""
    bound = tl.load(bound_ptr)
    if LEARNS:
        if bound > 0.0:
            bound = tl.minimum(bound * growth, LARGEST)
        else:
            bound = quantile(known_ptr, loss_ptr, num_rows, first_share, BLOCK)
    tl.store(used_ptr, bound)
    limit = tl.where(bound > 0.0, bound, INFINITE)
    for start in range(0, num_rows, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        mask = rows < num_rows
        loss = tl.load(loss_ptr + rows, mask=mask, other=0.0)
        if KIND == BELOW:
            weight = (loss < limit).to(tl.float32)
        else:
            tl.static_assert(KIND == LINEAR_BELOW)
            weight = tl.maximum(1.0 - loss / limit, 0.0)
        tl.store(loss_ptr + rows, loss * weight, mask=mask)
        multiply(saved_ptr + A * num_padded + rows, weight, mask)
        multiply(saved_ptr + V * num_padded + rows, weight, mask)
        if WITH_LENGTH:
            multiply(saved_ptr + OF_LENGTH * num_padded + rows, weight, mask)
    tl.debug_barrier()  # other threads read what was stored, and have read the bound
    if LEARNS:
        tl.store(bound_ptr, bound)


@triton.jit
def multiply(ptrs, factor, mask):
    """Multiply numbers in memory."""
    tl.store(ptrs, tl.load(ptrs, mask=mask, other=0.0) * factor, mask=mask)


@triton.jit
def quantile(known_ptr, loss_ptr, num_rows, share, BLOCK: tl.constexpr):
    """torch.nanquantile of the finite losses of valid rows; 0 without any."""
    num = num_up_to(known_ptr, loss_ptr, num_rows, 0x7F7FFFFF, BLOCK)
    rank = share * (tl.maximum(num, 1) - 1).to(tl.float32)
    below = rank.to(tl.int32)
    part = rank - below.to(tl.float32)
    low = smallest(known_ptr, loss_ptr, num_rows, below, BLOCK)
    high = smallest(known_ptr, loss_ptr, num_rows, below + (part > 0.0).to(tl.int32), BLOCK)
    # As torch.lerp, which ends at `high`.
    value = tl.where(part < 0.5, low + part * (high - low), high - (high - low) * (1.0 - part))
    return tl.where(num > 0, value, 0.0)


@triton.jit
def smallest(known_ptr, loss_ptr, num_rows, rank, BLOCK: tl.constexpr):
    """The loss that `rank` others precede: its bits, found from the highest one."""
    bits = tl.full((), 0, tl.int32)
    bit = tl.full((), HIGHEST_BIT, tl.int32)
    for _ in range(NUM_BITS):
        fewer = num_up_to(known_ptr, loss_ptr, num_rows, bits + (bit - 1), BLOCK) <= rank
        bits += tl.where(fewer, bit, 0)
        bit = bit >> 1
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def num_up_to(known_ptr, loss_ptr, num_rows, bits, BLOCK: tl.constexpr):
    """How many finite losses of valid rows are at most the number with these bits; losses are >= 0."""
    count = tl.zeros((BLOCK,), dtype=tl.int32)
    for start in range(0, num_rows, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        mask = rows < num_rows
        loss = tl.load(loss_ptr + rows, mask=mask, other=INFINITE)
        usable = (tl.load(known_ptr + rows, mask=mask, other=-1) != -1) & (loss < INFINITE)
        pattern = tl.abs(loss).to(tl.int32, bitcast=True)
        count += (usable & (pattern <= bits)).to(tl.int32)
    return tl.sum(count, axis=0)
