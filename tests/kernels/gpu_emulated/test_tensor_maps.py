"""Tensor descriptors: boxes copied by the hardware, what they wait for, and what they do not forgive."""

import re

import pytest
import torch
import triton
import triton.language as tl
from emulated_head import CAPABILITIES
from ptx_emulator import Options, OutOfBoundsError, PtxError, RaceError, emulated_gpu
from ptx_emulator.barriers import Mbarrier
from triton.tools.tensor_descriptor import TensorDescriptor

pytestmark = pytest.mark.skipif(
    triton.__version__.startswith("3.9."),
    reason="Triton 3.9 starts a copy in a branch of one lane, which the emulator does not run",
)
ROWS, COLUMNS = 150, 208  # no multiples of a box; rows of 16 bytes in every dtype


@triton.jit
def shift_kernel(
    x_ptr, out_ptr, rows, columns, down, right, BLOCK: tl.constexpr, WIDTH: tl.constexpr
):
    """out[i, j] = x[i + down, j + right] + 1, by descriptors that the kernel makes."""
    x = tl.make_tensor_descriptor(x_ptr, [rows, columns], [columns, 1], [BLOCK, WIDTH])
    out = tl.make_tensor_descriptor(out_ptr, [rows, columns], [columns, 1], [BLOCK, WIDTH])
    i, j = tl.program_id(0) * BLOCK, tl.program_id(1) * WIDTH
    out.store([i, j], x.load([i + down, j + right]) + 1)


@triton.jit
def shift_by_host_kernel(x, out, down, right, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    i, j = tl.program_id(0) * BLOCK, tl.program_id(1) * WIDTH
    out.store([i, j], x.load([i + down, j + right]) + 1)


def shifted(x, down, right, fill=0.0):
    """What the kernels compute; what lies outside is `fill`."""
    wide = torch.full((3 * ROWS, 3 * COLUMNS), fill, dtype=x.dtype)
    wide[ROWS : 2 * ROWS, COLUMNS : 2 * COLUMNS] = x
    first = ROWS + down, COLUMNS + right
    return wide[first[0] : first[0] + ROWS, first[1] : first[1] + COLUMNS] + 1


def numbers(dtype):
    g = torch.Generator().manual_seed(0)
    return torch.randint(-100, 100, (ROWS, COLUMNS), generator=g).to(dtype)


BLOCKS = [
    (64, 64),
    (32, 16),
    (128, 32),
    (16, 128),
]  # swizzled in 128, 32, 64 bytes and more than fit
GRID = {block: (-(-ROWS // block[0]), -(-COLUMNS // block[1])) for block in BLOCKS}
DTYPES = [torch.bfloat16, torch.float32, torch.float16, torch.int32]


@pytest.fixture(params=[(0, False), (0, True), (3, False)], ids=str)
def options(request):
    """Orders of warps, copies late and early."""
    return Options("lockstep" if not request.param[0] else 3, request.param[1], check_races=True)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_boxes_by_descriptors_that_the_kernel_makes(dtype, block, options):
    x, out = numbers(dtype), torch.full((ROWS, COLUMNS), 7).to(dtype)
    with emulated_gpu(90).active(options):
        shift_kernel[GRID[block]](x, out, ROWS, COLUMNS, -5, 9, *block)
    assert torch.equal(out, shifted(x, -5, 9))


@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{}".format)  # sm_80 has plain loads
@pytest.mark.parametrize("padding", ["zero", "nan"])
@pytest.mark.parametrize("block", BLOCKS[:2], ids=str)
def test_boxes_by_descriptors_of_the_host(capability, padding, block):
    x, out = numbers(torch.bfloat16), torch.full((ROWS, COLUMNS), 7.0).bfloat16()
    source = TensorDescriptor.from_tensor(x, list(block), padding=padding)
    target = TensorDescriptor.from_tensor(out, list(block))
    with emulated_gpu(capability).active(Options(check_races=True)):
        shift_by_host_kernel[GRID[block]](source, target, 100, -3, *block)
    expected = shifted(x, 100, -3, torch.nan if padding == "nan" else 0.0)
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.nan_to_num(), expected.nan_to_num())


@triton.jit
def sum_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    x = tl.make_tensor_descriptor(x_ptr, [n, n, n], [n * n, n, 1], [2, 4, BLOCK])
    box = x.load([tl.program_id(0), 1, 0])
    tl.store(out_ptr + tl.program_id(0), tl.sum(tl.sum(tl.sum(box, axis=2), axis=1), axis=0))


def test_boxes_of_three_dimensions():
    n = 12
    x, out = torch.arange(n**3).float().reshape(n, n, n), torch.full((n,), torch.nan)
    with emulated_gpu(90).active(Options(check_races=True)):
        sum_kernel[(n,)](x, out, n, BLOCK=16)
    assert out.tolist() == [x[i : i + 2, 1:5].sum().item() for i in range(n)]


@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, c_ptr, m, n, k,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """As large class centres are multiplied: a ring of boxes, barriers and wgmma."""
    a_desc = tl.make_tensor_descriptor(a_ptr, [m, k], [k, 1], [BM, BK])
    if TRANSPOSED:
        b_desc = tl.make_tensor_descriptor(b_ptr, [n, k], [k, 1], [BN, BK])
    else:
        b_desc = tl.make_tensor_descriptor(b_ptr, [k, n], [n, 1], [BK, BN])
    c_desc = tl.make_tensor_descriptor(c_ptr, [m, n], [n, 1], [BM, BN])
    row, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    acc = tl.zeros((BM, BN), tl.float32)
    for depth in range(0, k, BK):
        a = a_desc.load([row, depth])
        b = b_desc.load([column, depth]).T if TRANSPOSED else b_desc.load([depth, column])
        acc = tl.dot(a, b, acc)
    c_desc.store([row, column], acc.to(c_ptr.dtype.element_ty))


def product(options=None, edit=None, *, transposed=False, warps=4, block=(64, 64, 32), dtype=None):
    """A product of random matrices, and it in float64."""
    m, n, k = 150, 144, 208
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=g).bfloat16() for shape in ((m, k), (k, n)))
    c = torch.full((m, n), torch.nan, dtype=dtype)
    with emulated_gpu(90).active(options, edit):
        matmul_kernel[(triton.cdiv(m, block[0]), triton.cdiv(n, block[1]))](
            a, b.T.contiguous() if transposed else b, c, m, n, k,
            *block, TRANSPOSED=transposed, num_warps=warps, num_stages=3,
        )  # fmt: skip
    return c, a.double() @ b.double()


# Float32 out of the smaller tile; of the larger it would not fit in shared memory.
TILES = [(4, (64, 64, 32), torch.float32, 4e-7), (8, (128, 256, 64), torch.bfloat16, 2**-8)]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("warps", "block", "dtype", "tolerance"), TILES)
def test_products(warps, block, dtype, tolerance, transposed, options):
    tile = {"transposed": transposed, "warps": warps, "block": block, "dtype": dtype}
    c, exact = product(options, **tile)
    assert (c - exact).abs().max() < tolerance * exact.abs().max()
    lockstep, _ = product(**tile)
    assert torch.equal(c, lockstep)


def without(pattern, replacement=""):
    def edit(ptx):
        edited = re.sub(pattern, replacement, ptx)
        assert edited != ptx
        return edited

    return edit


RACING = Options(check_races=True)


def test_a_missing_fence_is_seen():
    """A tile that ordinary instructions wrote, stored without telling the asynchronous proxy."""
    with pytest.raises(RaceError, match=r"without fence\.proxy\.async"):
        product(RACING, without(r"fence\.proxy\.async[^;]*;"))


def test_a_missing_wait_for_a_box_is_seen():
    pattern = r"@!complete bra\.uni waitLoop;"
    no_wait = without(r"mbarrier\.try_wait[^;]*;\s*" + pattern)
    with pytest.raises(RaceError, match="being copied to"):
        product(RACING, no_wait)
    with pytest.raises(PtxError, match="more than 1 arrive"):  # the phase before is not over
        product(edit=no_wait)


@pytest.mark.parametrize("num_bytes", [4096, 16384])
def test_a_wrong_number_of_bytes_is_seen(num_bytes):
    """Of a box of 64 x 32 and one of 32 x 64 numbers, 8192 bytes together."""
    edit = without(r"(arrive\.expect_tx[^;]*), 8192;", rf"\1, {num_bytes};")
    with pytest.raises(PtxError, match=rf"wait for ever; .* and {num_bytes} bytes, of which 8192"):
        product(edit=edit)


def test_a_missing_wait_for_a_store_is_seen():
    with pytest.raises(PtxError, match="a store to a tensor is not waited for"):
        product(edit=without(r"(@%p\d+ )?cp\.async\.bulk\.wait_group[^;]*;"))


def test_rows_that_are_not_aligned_are_seen():
    x = numbers(torch.bfloat16)[:, :100].contiguous()  # 200 bytes
    with (
        emulated_gpu(90).active(),
        pytest.raises(PtxError, match="a stride of a tensor map, 200 bytes, must be a multiple"),
    ):
        shift_kernel[(1, 1)](x, x.clone(), ROWS, 100, 0, 0, 64, 64)


def test_a_map_larger_than_its_tensor_is_seen():
    x = numbers(torch.bfloat16)
    with emulated_gpu(90).active(), pytest.raises(OutOfBoundsError, match="'x_ptr'"):
        shift_kernel[(3, 4)](x[:100], x.clone(), ROWS, COLUMNS, 0, 0, 64, 64)


class Box:
    def __init__(self, num_bytes):
        self.num_bytes, self.arrived = num_bytes, False

    def arrive(self):
        self.arrived = True


def test_a_barrier_counts_arrivals_and_bytes():
    barrier, boxes = Mbarrier(2), [Box(64), Box(32)]
    assert not barrier.is_over(0)
    assert barrier.is_over(1)  # the phase before the first
    barrier.arrive(1, 96, "here")
    barrier.send(boxes[0], early=False)
    barrier.arrive(1, 0, "here")
    assert not barrier.is_over(0)
    assert not boxes[0].arrived  # there is no need yet
    barrier.send(boxes[1], early=False)
    assert barrier.is_over(0)
    assert all(box.arrived for box in boxes)
    assert not barrier.is_over(1)
    barrier.arrive(2, 0, "here")
    assert barrier.is_over(1)
    with pytest.raises(PtxError, match="more than 2 arrive at a barrier: here"):
        barrier.arrive(3, 0, "here")


def test_a_box_may_come_before_it_is_expected():
    barrier, box = Mbarrier(1), Box(64)
    barrier.send(box, early=True)
    assert box.arrived
    assert not barrier.is_over(0)
    barrier.arrive(1, 64, "here")
    assert barrier.is_over(0)
