"""The model of flops and bytes against what the recorded launches imply."""

import math

import pytest
import torch
from gpu_launches import MULTIPROCESSORS, record

from fusedface.kernels.gpu import layout, traffic

ALIGNED = [(512, 8192, 128, "bfloat16"), (512, 16_384, 256, "float16"), (256, 4096, 64, "tf32")]
WIDE = [(1024, 32_768, 512, "bfloat16"), (256, 8192, 384, "tf32"), (256, 8192, 128, "float32")]
RAGGED = [(500, 85_742, 100, "bfloat16"), (300, 10_572, 500, "bfloat16"), (1, 2, 7, "float32")]


def flops(launch):
    """Flops of the products a launch starts: programs, times tiles of each, times one tile."""
    c, args = (
        launch.constants,
        dict(zip((p.name for p in launch.kernel.params), launch.args, strict=False)),
    )
    dim = c.get("DIM")
    blocks = [c.get(f"BLOCK_{name}", 0) for name in "BCDK"]
    b, classes, d, k = blocks
    if launch.name in ("flash_kernel", "lse_kernel"):
        # The last split may hold fewer tiles: count those there are.
        tiles = math.ceil(args["num_classes"] / classes) * math.ceil(args["num_rows"] / b)
        assert launch.grid * args["tiles_per_split"] >= tiles
        return tiles * 2 * b * classes * dim * (2 if launch.name == "flash_kernel" else 1)
    if launch.name == "centre_gradient_kernel":
        return launch.grid * math.ceil(args["num_rows"] / b) * 2 * (2 * b * classes * dim)
    if launch.name == "coefficients_kernel":
        return launch.grid * 2 * b * classes * dim
    if launch.name == "embedding_product_kernel":
        parts = args["parts_ptr"].shape[0]
        return launch.grid // parts * (args["chunk"] // k) * 2 * b * d * k
    if launch.name == "centre_product_kernel":
        return launch.grid * math.ceil(args["num_rows"] / k) * 2 * classes * d * k
    return 0


def size(launch, but=()):
    names = [p.name for p in launch.kernel.params]
    return sum(
        arg.numel() * arg.element_size()
        for name, arg in zip(names, launch.args, strict=False)
        if isinstance(arg, torch.Tensor) and name not in but
    )


def passes_and_launches(case, monkeypatch, train=True):
    rows, classes, dim, precision = case
    problem = traffic.Problem(rows, classes, dim, precision)
    launches = record(rows, classes, dim, precision=precision, train=train, monkeypatch=monkeypatch)
    sums = next(launch for launch in launches if launch.name in ("flash_kernel", "lse_kernel"))
    splits = layout.split_classes(
        rows, classes, sums.tile.block_b, sums.tile.block_c, sums.tile.programs * MULTIPROCESSORS
    )
    assert sums.grid == splits.blocks * splits.num
    passes = traffic.forward(problem, train, splits.num)
    if train:
        g = [launch for launch in launches if launch.name == "coefficients_kernel"]
        products = [launch for launch in launches if launch.name == "embedding_product_kernel"]
        num_parts = len(products[0].args[2]) if products else 0
        along = [param.name for param in g[0].kernel.params].index("along_ptr") if g else 0
        num_blocks = len(g[0].args[along]) if g else 0
        passes += traffic.backward(problem, num_parts, num_blocks)
    return passes, launches


@pytest.mark.parametrize("case", ALIGNED + WIDE, ids=str)
def test_flops_are_those_of_the_launches(case, monkeypatch):
    passes, launches = passes_and_launches(case, monkeypatch)
    for one in passes:
        assert one.flops == sum(flops(la) for la in launches if la.name == one.kernel), one.kernel
    rows, classes, _, _ = case
    dim = launches[-1].constants["DIM"]
    assert sum(one.flops for one in passes) == 8 * rows * classes * dim


@pytest.mark.parametrize("case", RAGGED, ids=str)
def test_padding_costs_at_most_a_tile(case, monkeypatch):
    passes, launches = passes_and_launches(case, monkeypatch)
    for one in passes:
        started = sum(flops(la) for la in launches if la.name == one.kernel)
        assert started >= one.flops
        rows, classes = (math.ceil(n / 128) * 128 for n in case[:2])
        assert started * case[0] * case[1] <= one.flops * rows * classes


@pytest.mark.parametrize("case", ALIGNED + RAGGED[:1], ids=str)
def test_bytes_are_those_of_the_operands(case, monkeypatch):
    passes, launches = passes_and_launches(case, monkeypatch)
    weight_launch = [la for la in launches if la.name == "unit_rows_kernel"][1:]
    for one in passes:
        chosen = [la for la in launches if la.name == one.kernel]
        if one.kernel == "unit_rows_kernel":
            chosen = weight_launch
        # The class centres come through two arguments in the backward; they are read once. Unit rows go to
        # the combination for the rare row that is summed again.
        but = ("x_ptr", "w_ptr") if one.kernel == "combine_kernel" else ("w_again_ptr",)
        assert one.bytes == sum(size(la, but=but) for la in chosen), one.kernel


@pytest.mark.parametrize("case", [*WIDE, RAGGED[1]], ids=str)
def test_bytes_of_chunks(case, monkeypatch):
    """What a chunk reads of w and writes of its gradient is its share of them."""
    passes, launches = passes_and_launches(case, monkeypatch)
    per_class = ("w_ptr", "inverse_w_ptr", "d_weight_ptr", "flags_ptr")
    for one in passes:
        if one.kernel not in (
            "coefficients_kernel",
            "embedding_product_kernel",
            "centre_product_kernel",
        ):
            continue
        chosen = [la for la in launches if la.name == one.kernel]
        scratch, expected = 0, 0
        for launch in chosen:
            args = dict(zip((p.name for p in launch.kernel.params), launch.args, strict=False))
            g = layout.padded_rows(case[0]) * args["chunk"] * args["g_ptr"].element_size()
            scratch += g + (args["along_ptr"].nbytes if "along_ptr" in args else 0)
            expected += size(launch, but=(*per_class, "g_ptr", "along_ptr"))
            expected += args["parts_ptr"].nbytes if "parts_ptr" in args else 0  # read and written
        whole = dict(zip((p.name for p in chosen[0].kernel.params), chosen[0].args, strict=False))
        expected += sum(whole[name].nbytes for name in per_class if name in whole)
        if one.kernel == "centre_product_kernel":
            expected -= (len(chosen) - 1) * 4  # one number, `unscale`, is counted once
        assert one.bytes == expected, one.kernel
        assert one.scratch == scratch, one.kernel


def test_scratch_does_not_grow_with_the_classes():
    """Two million classes take the memory of their gradient and unit rows, and no more than fewer do."""
    for rows in (512, 1024):
        sizes = set()
        for classes in (360_232, 2_000_000):
            chunk = layout.chunk_classes(rows, classes)
            sizes.add(rows * chunk)
        assert max(sizes) <= layout.CHUNK_ELEMENTS
        assert len(sizes) == 1


@pytest.mark.parametrize("rows", [1, 63, 512, 4096, 100_000])
@pytest.mark.parametrize("classes", [2, 1000, 85_742, 10_000_000])
def test_splits_cover_the_classes_once(rows, classes):
    splits = layout.split_classes(rows, classes, 64, 64, 2 * MULTIPROCESSORS)
    tiles = math.ceil(classes / 64)
    assert (splits.num - 1) * splits.tiles < tiles <= splits.num * splits.tiles
    assert splits.blocks == math.ceil(rows / 64)
    assert splits.num == 1 or splits.num * splits.blocks <= 2 * MULTIPROCESSORS
    chunk = layout.chunk_classes(rows, classes)
    assert chunk % layout.CHUNK_MULTIPLE == 0
    parts = layout.split_chunk(splits.blocks, chunk, 2 * MULTIPROCESSORS)
    assert (parts.num - 1) * parts.classes < chunk <= parts.num * parts.classes


def test_floor():
    one = traffic.Pass("a", flops=10, bytes=4)
    other = traffic.Pass("b", flops=1, bytes=100)
    assert traffic.floor_ms([one, other], 1.0, 10.0) == pytest.approx(1e3 * (10 + 10))
