"""A Triton kernel that only reads, for the bandwidth between L2 and the multiprocessors."""

import triton
import triton.language as tl


@triton.jit
def read_kernel(numbers_ptr, sums_ptr, num_blocks, REPEATS: tl.constexpr, BLOCK: tl.constexpr):
    """A program reads REPEATS of `num_blocks` blocks, from its own one on, and stores the sum of each lane.

    Past L1 (.cg), and neighbours begin at neighbouring blocks, so that all of them read from L2 at once.
    """
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    block = tl.program_id(0) % num_blocks
    for _ in range(REPEATS):
        total += tl.load(numbers_ptr + block * BLOCK + lanes, cache_modifier=".cg")
        block = (block + 1) % num_blocks
    tl.store(sums_ptr + tl.program_id(0) * BLOCK + lanes, total)
