"""The emulator itself: products against float64, and whether it sees what it is there to see."""

import re

import pytest
import torch
import triton
import triton.language as tl
from emulated_head import CAPABILITIES
from ptx_emulator import Options, OutOfBoundsError, PtxError, RaceError, emulated_gpu
from ptx_emulator.machine import Program

M, N, K = 150, 144, 208  # no multiples of a tile; N and K of 16, so that copies are asynchronous


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n)
    tl.store(out_ptr + i, x + tl.load(y_ptr + i, mask=i < n), mask=i < n)


@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, c_ptr, m, n, k,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), tl.float32)
    for start in range(0, k, BK):
        depth = start + tl.arange(0, BK)
        mask_a = (rows < m)[:, None] & (depth < k)[None, :]
        a = tl.load(a_ptr + rows[:, None] * k + depth[None, :], mask=mask_a, other=0.0)
        if TRANSPOSED:
            mask_b = (columns < n)[:, None] & (depth < k)[None, :]
            b = tl.load(b_ptr + columns[:, None] * k + depth[None, :], mask=mask_b, other=0.0).T
        else:
            mask_b = (columns < n)[None, :] & (depth < k)[:, None]
            b = tl.load(b_ptr + depth[:, None] * n + columns[None, :], mask=mask_b, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    mask = (rows < m)[:, None] & (columns < n)[None, :]
    tl.store(c_ptr + rows[:, None] * n + columns[None, :], acc, mask=mask)


@pytest.fixture(params=CAPABILITIES, ids="sm_{}".format)
def gpu(request):
    return emulated_gpu(request.param)


def matmul_error(dtype, precision="ieee", *, transposed=False, warps=4, stages=3, depth=32):
    """Largest error of a product of random matrices over its largest magnitude."""
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=g).to(dtype) for shape in ((M, K), (K, N)))
    c = torch.full((M, N), torch.nan)
    matmul_kernel[(triton.cdiv(M, 64), triton.cdiv(N, 64))](
        a, b.T.contiguous() if transposed else b, c, M, N, K,
        PRECISION=precision, BM=64, BN=64, BK=depth, TRANSPOSED=transposed,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    exact = a.double() @ b.double()
    return ((c - exact).abs().max() / exact.abs().max()).item()


def test_addition(gpu):
    x, y, out = torch.randn(1000), torch.randn(1000), torch.full((1000,), torch.nan)
    with gpu.active():
        add_kernel[(4,)](x, y, out, 1000, BLOCK=256)
    assert torch.equal(out, x + y)


# Sums in float32 (4e-7), operands of 10 bits (2e-3), products and sums in float32 (2e-6).
OPERANDS = [
    (torch.float16, "ieee", 4e-7),
    (torch.bfloat16, "ieee", 4e-7),
    (torch.float32, "tf32", 2e-3),
    (torch.float32, "tf32x3", 4e-7),
    (torch.float32, "ieee", 2e-6),
]
TILES = [(4, 3, 32), (8, 2, 64), (4, 1, 16)]  # warps, stages, depth


@pytest.mark.parametrize(("dtype", "precision", "tolerance"), OPERANDS)
def test_products(gpu, dtype, precision, tolerance):
    with gpu.active(Options(check_races=True)):
        assert matmul_error(dtype, precision, transposed=True) < tolerance


@pytest.mark.exhaustive
@pytest.mark.parametrize(("warps", "stages", "depth"), TILES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("dtype", "precision", "tolerance"), OPERANDS)
def test_products_of_every_layout(
    gpu, dtype, precision, tolerance, transposed, warps, stages, depth
):
    with gpu.active(Options(check_races=True)):
        error = matmul_error(
            dtype, precision, transposed=transposed, warps=warps, stages=stages, depth=depth
        )
    assert error < tolerance


def test_sums_that_are_cut_off_are_worse_but_not_wrong(gpu):
    """As tensor cores are reported to add up."""
    with gpu.active(Options(truncate=True)):
        assert 1e-7 < matmul_error(torch.bfloat16) < 4e-6


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("schedule", ["serial", "reversed", 1, 2])
def test_every_schedule_gives_the_same(gpu, schedule, early):
    with gpu.active():
        expected = matmul_error(torch.bfloat16)
    with gpu.active(Options(schedule=schedule, early_copies=early)):
        assert matmul_error(torch.bfloat16) == expected


def without(pattern):
    """Takes out of the PTX what matches."""

    def edit(ptx):
        edited = re.sub(pattern, "", ptx)
        assert edited != ptx
        return edited

    return edit


def test_a_missing_barrier_is_seen(gpu):
    with (
        gpu.active(Options(check_races=True), without(r"\tbar\.sync[^;]*;")),
        pytest.raises(RaceError, match="shared memory"),
    ):
        matmul_error(torch.float16)


def test_a_missing_wait_is_seen(gpu):
    pattern = r"cp\.async\.wait_group[^;]*;"
    with gpu.active(edit=without(pattern)):
        assert not matmul_error(torch.float16) < 1e-3
    with (
        gpu.active(Options(check_races=True), without(pattern)),
        pytest.raises(RaceError, match="being copied to"),
    ):
        matmul_error(torch.float16)


def test_a_missing_wait_for_products_is_seen():
    with emulated_gpu(90).active(edit=without(r"wgmma\.wait_group[^;]*;")):
        assert not matmul_error(torch.float16) < 1e-3


def test_a_missing_mask_is_seen(gpu):
    with gpu.active(), pytest.raises(OutOfBoundsError, match=r"'x_ptr', which has 4000"):
        add_kernel[(4,)](torch.randn(1000), torch.randn(1024), torch.empty(1024), 1024, BLOCK=256)
    storage = torch.zeros(1024)  # within the storage is not within the tensor
    with gpu.active(), pytest.raises(OutOfBoundsError, match="out_ptr"):
        add_kernel[(4,)](torch.randn(1024), torch.randn(1024), storage[:1000], 1024, BLOCK=256)
    assert (storage[1000:] == 0).all()


@triton.jit
def neighbour_kernel(values_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(values_ptr + i, tl.load(values_ptr + (i + BLOCK) % (4 * BLOCK)))


def test_programs_that_race_are_seen(gpu):
    with gpu.active(Options(check_races=True)), pytest.raises(RaceError, match="values_ptr"):
        neighbour_kernel[(4,)](torch.arange(512.0), BLOCK=128)


@triton.jit
def collatz_kernel(starts_ptr, flags_ptr, out_ptr, BLOCK: tl.constexpr):
    """Steps of each program's own number down to 1; with a flag, sums over shared memory on the way."""
    value = tl.load(starts_ptr + tl.program_id(0))
    steps, total = 0, 0
    while value != 1:
        value = tl.where(value % 2 == 0, value // 2, 3 * value + 1)
        steps += 1
        if tl.load(flags_ptr + tl.program_id(0)) != 0:
            total += tl.sum(value + tl.arange(0, BLOCK))
    tl.store(out_ptr + 2 * tl.program_id(0), steps)
    tl.store(out_ptr + 2 * tl.program_id(0) + 1, total)


def collatz(value, flag, block):
    steps = total = 0
    while value != 1:
        value = value // 2 if value % 2 == 0 else 3 * value + 1
        steps, total = steps + 1, total + flag * (block * value + block * (block - 1) // 2)
    return [steps, total]


def test_programs_that_branch_apart(gpu):
    """Loops of any length, and branches that some programs take; all of them started together."""
    starts, flags = torch.arange(1, 21), torch.arange(20) % 2
    out = torch.full((20, 2), -1, dtype=torch.int32)
    with gpu.active(Options(check_races=True)):
        collatz_kernel[(20,)](starts.int(), flags.int(), out, BLOCK=128)
    pairs = zip(starts.tolist(), flags.tolist(), strict=True)
    assert out.tolist() == [collatz(start, flag, 128) for start, flag in pairs]


@triton.jit
def histogram_kernel(values_ptr, counts_ptr, largest_ptr, sum_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(values_ptr + i)
    ones = tl.full((BLOCK,), 1, tl.int32)
    seen = tl.atomic_add(counts_ptr + values, ones)
    tl.atomic_max(largest_ptr + values, seen)
    tl.atomic_add(sum_ptr, tl.sum(values.to(tl.float32)))


def test_atomics(gpu):
    values = torch.randint(
        10, (512,), generator=torch.Generator().manual_seed(0), dtype=torch.int32
    )
    counts, largest = torch.zeros(10, dtype=torch.int32), torch.full((10,), -1, dtype=torch.int32)
    total = torch.zeros(1)
    for schedule in ("lockstep", 1):
        counts.zero_()
        with gpu.active(Options(schedule)):
            histogram_kernel[(4,)](values, counts, largest, total.zero_(), BLOCK=128)
        assert torch.equal(counts, torch.bincount(values, minlength=10).int())
        assert torch.equal(largest, counts - 1)
        assert total.item() == values.sum().item()


@triton.jit
def first_half_kernel(out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(out_ptr + i) + 1.0, mask=i < BLOCK // 2)


def test_what_nobody_wrote_is_not_a_number(gpu):
    """Fresh memory, as the tests of the head have it."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        out = torch.empty(64)
    finally:
        torch.use_deterministic_algorithms(before)
    with gpu.active():
        first_half_kernel[(1,)](out, BLOCK=64)
    assert out.isnan().all()


def test_an_unknown_instruction_is_an_error():
    text = ".visible .entry f()\n{\n\t.reg .b32 %r<2>;\n\tfrobnicate.b32 %r0, %r1;\n\tret;\n}\n"
    with pytest.raises(PtxError, match="not supported: `frobnicate"):
        Program(text)


def test_another_device_is_left_as_it_was(gpu):
    driver = triton.runtime.driver
    before = driver._active
    with gpu.active():
        assert driver.active is gpu
    assert driver._active is before
