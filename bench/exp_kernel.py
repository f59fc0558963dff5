"""A Triton kernel that computes only exponentials, for the roofline of a GPU."""

import triton
import triton.language as tl


@triton.jit
def exp_chain_kernel(numbers_ptr, REPEATS: tl.constexpr, BLOCK: tl.constexpr):
    """x <- exp2(-x), REPEATS times for each number; one program takes BLOCK numbers."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(numbers_ptr + at)
    for _ in range(REPEATS):
        x = tl.exp2(-x)
    tl.store(numbers_ptr + at, x)
