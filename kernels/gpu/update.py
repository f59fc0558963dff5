"""The step of SGD on class centres, and the unit rows that the next forward starts from, in one pass.

    g = grad / grad_scale + weight_decay w     v = momentum v + g
    w -= lr v, with Nesterov lr (g + momentum v)

As in `torch.optim.SGD` without dampening: before the first step the momentum is zero.
"""

import triton
import triton.language as tl

from fusedface.kernels.gpu.rows import inverse_norm, rounded_product
from fusedface.kernels.gpu.tile import as_operand


@triton.jit(do_not_specialize=["num_rows"])
def sgd_kernel(
    # tensors: (C, dim); numbers on the device, where they are used
    grad_ptr, grad_scale_ptr, found_inf_ptr, lr_ptr,
    # in and out: (C, dim)
    w_ptr, momentum_ptr,
    # out: (padded C, DIM), (padded C,)
    unit_ptr, inverse_ptr,
    # run-time scalars
    num_rows, dim, lr, momentum, weight_decay,
    # specialisation
    DIM: tl.constexpr, PRECISION: tl.constexpr, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr,
    IS_SCALED: tl.constexpr, MAY_SKIP: tl.constexpr, LR_IS_READ: tl.constexpr,
    WITH_UNIT_ROWS: tl.constexpr,
    # tiling; BLOCK_D is at least DIM
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """BLOCK_N class centres, and zeros past the last; grid (padded C / BLOCK_N,)."""
    rows = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    offs_d = tl.arange(0, BLOCK_D)
    mask = (rows < num_rows)[:, None] & (offs_d < dim)[None, :]
    offsets = rows[:, None] * dim + offs_d[None, :]
    w = tl.load(w_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    takes_step = True
    if MAY_SKIP:
        takes_step = tl.load(found_inf_ptr) == 0.0
    if takes_step:
        g = tl.load(grad_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        if IS_SCALED:
            g = g / tl.load(grad_scale_ptr)
        g = g + weight_decay * w
        if MOMENTUM:
            v = momentum * tl.load(momentum_ptr + offsets, mask=mask, other=0.0).to(tl.float32) + g
            tl.store(momentum_ptr + offsets, v.to(momentum_ptr.dtype.element_ty), mask=mask)
            g = g + momentum * v if NESTEROV else v
        rate = lr
        if LR_IS_READ:
            rate = tl.load(lr_ptr).to(tl.float32)
        stored = (w - rate * g).to(w_ptr.dtype.element_ty)
        tl.store(w_ptr + offsets, stored, mask=mask)
        w = stored.to(tl.float32)
    if WITH_UNIT_ROWS:
        inverse = inverse_norm(tl.sum(rounded_product(w, w), axis=1), w_ptr.dtype.element_ty)
        unit = as_operand(w * inverse[:, None], unit_ptr.dtype.element_ty, PRECISION)
        tl.store(inverse_ptr + rows, inverse)
        unit_ptrs = unit_ptr + rows[:, None] * DIM + offs_d[None, :]
        tl.store(unit_ptrs, unit, mask=(offs_d < DIM)[None, :])
