"""The sums over the classes, chunk after chunk: the splits of each are added to the chunks before it."""

import triton
import triton.language as tl

from fusedface.kernels.gpu.combination import stats_of_splits, summed_splits
from fusedface.kernels.gpu.tile import NO_LARGEST


@triton.jit(do_not_specialize=["num_rows", "num_splits", "is_later"])
def add_chunk_kernel(
    # tensors: (6, num_splits, B), (num_splits, B, DIM), of one chunk
    totals_ptr, weighted_ptr,
    # in and out: (6, B), (B, DIM), of all chunks so far
    sums_ptr, direction_ptr,
    # run-time scalars
    num_rows, num_splits, is_later,
    # specialisation
    DIM: tl.constexpr, WITH_DIRECTION: tl.constexpr,
    # tiling; BLOCK_S is at least num_splits, BLOCK_D at least DIM
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Add a chunk to one row, or begin with it unless `is_later`; grid (B,)."""
    row = tl.program_id(0).to(tl.int64)
    has_sums = is_later != 0
    # A type checker sees device functions as they are outside of kernels, where they return nothing.
    largest, total, direction = summed_splits(  # pyright: ignore[reportGeneralTypeIssues]
        totals_ptr, weighted_ptr, row, num_rows, num_splits, DIM, WITH_DIRECTION, BLOCK_S, BLOCK_D
    )
    max_cos, num_hard, least, sum_lift = stats_of_splits(  # pyright: ignore[reportGeneralTypeIssues]
        totals_ptr, row, num_rows, num_splits, BLOCK_S
    )
    ptr = sums_ptr + row
    before = tl.load(ptr, mask=has_sums, other=NO_LARGEST)
    new_largest = tl.maximum(largest, before)
    share, share_before = tl.exp2(largest - new_largest), tl.exp2(before - new_largest)
    total_before = tl.load(ptr + num_rows, mask=has_sums, other=0.0)
    max_before = tl.load(ptr + 2 * num_rows, mask=has_sums, other=NO_LARGEST)
    hard_before = tl.load(ptr + 3 * num_rows, mask=has_sums, other=0.0)
    least_before = tl.load(ptr + 4 * num_rows, mask=has_sums, other=0.0)
    lift_before = tl.load(ptr + 5 * num_rows, mask=has_sums, other=0.0)
    tl.store(ptr, new_largest)
    tl.store(ptr + num_rows, total_before * share_before + total * share)
    tl.store(ptr + 2 * num_rows, tl.maximum(max_cos, max_before))
    tl.store(ptr + 3 * num_rows, num_hard + hard_before)
    tl.store(ptr + 4 * num_rows, tl.maximum(least, least_before))
    tl.store(ptr + 5 * num_rows, sum_lift + lift_before)
    if WITH_DIRECTION:
        offs_d = tl.arange(0, BLOCK_D)
        ptrs, mask = direction_ptr + row * DIM + offs_d, offs_d < DIM
        direction_before = tl.load(ptrs, mask=mask & has_sums, other=0.0)
        tl.store(ptrs, direction_before * share_before + direction * share, mask=mask)
