"""The step of SGD on a chunk of class centres within a backward, right after their gradient.

    g = grad / loss_scale + weight_decay w     v = momentum v + g
    w -= lr v, with Nesterov lr (g + momentum v)

Learning rate, loss scale and the decision to skip stay on the device. bfloat16 numbers are rounded up or
down at random, with the bits of `interface.random_bits`: as `rounding.rounded` rounds them.
"""

import triton
import triton.language as tl

from fusedface.kernels.interface import random_bits

GAMMA = tl.constexpr(random_bits.GAMMA)
MIX_1, MIX_2 = tl.constexpr(random_bits.MIX_1), tl.constexpr(random_bits.MIX_2)
# What `step_numbers_kernel` writes, in order: 1 if the step is made, learning rate, 1 / loss scale.
TAKES_STEP, LR, UNSCALE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
NUM_STEP_NUMBERS = 3


@triton.jit(do_not_specialize=["num_rows"])
def step_numbers_kernel(
    # (B,), (B,); 0-d, of any dtype
    d_cos_y_ptr, d_lse_ptr, skip_ptr, lr_ptr, loss_scale_ptr,
    # out: three numbers
    numbers_ptr,
    num_rows, scale,
    BLOCK_B: tl.constexpr,
):  # fmt: skip
    """What a step goes by; none is made if an upstream gradient is not finite. Grid (1,)."""
    wrong = tl.zeros((BLOCK_B,), dtype=tl.int32)
    for start in range(0, num_rows, BLOCK_B):
        rows = start + tl.arange(0, BLOCK_B)
        mask = rows < num_rows
        d_cos_y = tl.load(d_cos_y_ptr + rows, mask=mask, other=0.0)
        d_lse = scale * tl.load(d_lse_ptr + rows, mask=mask, other=0.0)
        finite = (tl.abs(d_cos_y) < float("inf")) & (tl.abs(d_lse) < float("inf"))
        wrong += tl.where(finite, 0, 1)
    takes_step = (tl.load(skip_ptr).to(tl.int32) == 0) & (tl.sum(wrong, axis=0) == 0)
    tl.store(numbers_ptr + TAKES_STEP, takes_step.to(tl.float32))
    tl.store(numbers_ptr + LR, tl.load(lr_ptr).to(tl.float32))
    tl.store(numbers_ptr + UNSCALE, 1.0 / tl.load(loss_scale_ptr).to(tl.float32))


@triton.jit(do_not_specialize=["first", "num_rows"])
def row_update_kernel(
    # tensors: (chunk, dim), (3,), 0-d int64, 0-d int64, (K,) int64
    grad_ptr, numbers_ptr, seed_ptr, first_class_ptr, sampled_ptr,
    # in and out: (C, dim)
    w_ptr, momentum_ptr,
    # run-time scalars
    first, num_rows, dim, w_row_stride, w_column_stride, momentum_row_stride, momentum_column_stride,
    momentum, weight_decay,
    # specialisation
    MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, IS_SAMPLED: tl.constexpr,
    # tiling: a row has up to BLOCK_G groups of four columns, which share 64 random bits
    BLOCK_N: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """BLOCK_N of the rows [first, first + num_rows), or of `sampled` there; grid (row blocks,)."""
    if tl.load(numbers_ptr + TAKES_STEP) != 0.0:
        places = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N))[:, None, None]
        is_row = places < num_rows
        rows = (first + places).to(tl.int64)
        if IS_SAMPLED:
            rows = tl.load(sampled_ptr + rows, mask=is_row, other=0)
        groups = tl.arange(0, BLOCK_G)[None, :, None]
        columns = (groups * 4 + tl.arange(0, 4)[None, None, :]).to(tl.int64)
        mask = is_row & (columns < dim)
        numbers = (rows + tl.load(first_class_ptr)) * ((dim + 3) // 4) + groups
        seed = tl.load(seed_ptr)

        w_ptrs = w_ptr + rows * w_row_stride + columns * w_column_stride
        w = tl.load(w_ptrs, mask=mask, other=0.0).to(tl.float32)
        grad_ptrs = grad_ptr + places.to(tl.int64) * dim + columns
        g = tl.load(grad_ptrs, mask=mask, other=0.0) * tl.load(numbers_ptr + UNSCALE)
        g = g + weight_decay * w
        if MOMENTUM:
            v_ptrs = momentum_ptr + rows * momentum_row_stride + columns * momentum_column_stride
            v = momentum * tl.load(v_ptrs, mask=mask, other=0.0).to(tl.float32) + g
            stored = as_stored(v, numbers, mix(seed), momentum_ptr.dtype.element_ty)
            tl.store(v_ptrs, stored, mask=mask)
            g = g + momentum * v if NESTEROV else v
        moved = w - tl.load(numbers_ptr + LR) * g
        tl.store(w_ptrs, as_stored(moved, numbers, seed, w_ptr.dtype.element_ty), mask=mask)


@triton.jit
def as_stored(values, numbers, seed, dtype: tl.constexpr):
    """`values` [N, G, 4] in `dtype`; `numbers` [N, G, 1] with the seed decide how bfloat16 is rounded."""
    if dtype == tl.bfloat16:
        bits = mix(mix(seed + GAMMA) + GAMMA * (numbers + 1))
        noise = (bits >> (16 * tl.arange(0, 4)[None, None, :])).to(tl.int32) & 0xFFFF
        # Adding to the pattern of a float moves its magnitude; a carry is the next number up.
        moved = ((noise + values.to(tl.int32, bitcast=True)) & -65536).to(tl.float32, bitcast=True)
        values = tl.where(tl.abs(values) < float("inf"), moved, values)
    return values.to(dtype)


@triton.jit
def mix(x):
    """`random_bits.mix`."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * MIX_1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
