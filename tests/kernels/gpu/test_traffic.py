"""The model of flops and bytes against what the recorded launches imply."""

import math
from collections import Counter

import pytest
import torch
from gpu_launches import MULTIPROCESSORS, record, record_whole

from fusedface.kernels import CurricularFace
from fusedface.kernels.gpu import layout, traffic

ALIGNED = [(512, 8192, 128, "bfloat16"), (512, 16_384, 256, "float16"), (256, 4096, 64, "tf32")]
WIDE = [(1024, 32_768, 512, "bfloat16"), (256, 8192, 384, "tf32"), (256, 8192, 128, "float32")]
RAGGED = [(500, 85_742, 100, "bfloat16"), (300, 10_572, 500, "bfloat16"), (1, 2, 7, "float32")]


def named(launch):
    """The run-time arguments of a launch by name."""
    return dict(zip((p.name for p in launch.kernel.params), launch.args, strict=False))


def flops(launch):
    """Flops of the products a launch starts: programs, times tiles of each, times one tile."""
    c, args = launch.constants, named(launch)
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
    if launch.name == "products_kernel":
        of_embeddings = args["num_embedding_tiles"]
        depth = args["chunk"] // len(args["parts_ptr"])
        of_centres = (launch.grid - of_embeddings) * classes * math.ceil(args["num_rows"] / k) * k
        return 2 * d * (of_embeddings * b * depth + of_centres)
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
        products = [launch for launch in launches if launch.name == "products_kernel"]
        num_parts = len(named(products[0])["parts_ptr"]) if products else 0
        num_blocks = math.ceil(rows / g[0].tile.block_b) if g else 0
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
        rows, classes = math.ceil(case[0] / 128) * 128, math.ceil(case[1] / 256) * 256
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
    monkeypatch.setattr(layout, "CHUNK_BYTES", 2**22)
    monkeypatch.setattr(layout, "CHUNK_SHARE", 2**30)
    passes, launches = passes_and_launches(case, monkeypatch)
    per_class = ("w_ptr", "inverse_w_ptr", "d_weight_ptr", "flags_ptr")
    for one in passes:
        if one.kernel not in ("coefficients_kernel", "products_kernel"):
            continue
        chosen = [named(launch) for launch in launches if launch.name == one.kernel]
        assert len(chosen) > 1
        blocks = math.ceil(case[0] / launches[-3].tile.block_b)
        scratch, expected = 0, 0
        for args in chosen:
            g = layout.padded_rows(case[0]) * args["chunk"] * args["g_ptr"].element_size()
            # Both products read the coefficients.
            scratch += g * (1 + ("parts_ptr" in args)) + blocks * args["chunk"] * 4
            tensors = {name: t for name, t in args.items() if isinstance(t, torch.Tensor)}
            expected += sum(
                t.nbytes
                for name, t in tensors.items()
                if name not in (*per_class, "g_ptr", "along_ptr")
            )
            # Added to, from the second chunk on.
            expected += (
                tensors["parts_ptr"].nbytes if args["first_class"] and "parts_ptr" in args else 0
            )
        expected += sum(chosen[0][name].nbytes for name in per_class if name in chosen[0])
        if one.kernel == "products_kernel":
            expected -= (
                len(chosen) - 1
            ) * 8  # two numbers, `unscale` and `outer`, are counted once
        assert one.bytes == expected, one.kernel
        assert one.scratch == scratch, one.kernel


def operand_bytes_read(launch, itemsize):
    """Of the products, from the flops of a launch: a tile is read for each, but what a program keeps."""
    c = launch.constants
    b, classes, d = (c.get(f"BLOCK_{name}", 0) for name in "BCD")
    work, args = flops(launch) * itemsize / 2, named(launch)
    if launch.name == "flash_kernel":  # a block of rows stays, and both products have the same w
        return work / 2 / b + launch.grid * b * c["DIM"] * itemsize
    if launch.name == "centre_gradient_kernel":  # class centres once more for the projection
        return work / 2 / classes + launch.grid * 2 * classes * c["DIM"] * itemsize
    if launch.name == "products_kernel":
        half = work / 2
        return half / (b * d) * (b + d) + half / (classes * d) * (classes + d)
    g = args["g_ptr"].itemsize * launch.grid * b * classes if "g_ptr" in args else 0
    return work / (b * classes) * (b + classes) + g


TILED = {
    "flash_kernel": "flash", "lse_kernel": "lse", "centre_gradient_kernel": "centres",
    "coefficients_kernel": "coefficients", "products_kernel": "products",
}  # fmt: skip


@pytest.mark.parametrize("case", [*ALIGNED[:2], *WIDE[:2], (512, 86_016, 512, "bfloat16")], ids=str)
def test_bytes_from_l2(case, monkeypatch):
    """Of operands and coefficients; the table is in the output of `pytest -rP`."""
    _, launches = passes_and_launches(case, monkeypatch)
    tiles = {TILED[la.name]: la.tile for la in launches if la.name in TILED}
    sums = next(named(launch) for launch in launches if "num_splits" in named(launch))
    problem = traffic.Problem(*case)
    found = traffic.from_l2(problem, tiles, sums["num_splits"])
    itemsize = layout.operands(problem.precision).dtype.itemsize
    for kernel, num_bytes in found.items():
        print(f"{case} {kernel:24} {num_bytes / 1e6:7.1f} MB")
        read = sum(operand_bytes_read(la, itemsize) for la in launches if la.name == kernel)
        assert num_bytes == read, kernel
    assert found.keys() == {la.name for la in launches if la.name in TILED}


def test_scratch_is_a_share_of_the_unit_class_centres():
    """Two million classes have their coefficients in a sixth of the memory that unit rows take."""
    for rows in (512, 1024, 4096):
        for classes in (85_742, 360_232, 2_000_000, 10_000_000):
            chunk = layout.chunk_classes(rows, classes, 512, "bfloat16")
            unit_rows = classes * 512 * 2
            assert rows * chunk * 2 <= max(layout.CHUNK_BYTES, unit_rows / layout.CHUNK_SHARE)


@pytest.mark.parametrize(("case", "most"), [((1024, 2_000_000), 40), ((512, 85_742), 12)])
def test_launches_with_many_classes(case, most, monkeypatch):
    """Ours, of a whole loss at D = 512: of 2,000,000 classes below 40."""
    launches = record_whole(*case, 512, CurricularFace(), monkeypatch=monkeypatch)
    names = Counter(launch.name for launch in launches)
    print(f"{case}: {len(launches)} launches, {dict(names)}")
    assert names["coefficients_kernel"] == names["products_kernel"]
    assert len(launches) <= most


@pytest.mark.parametrize("rows", [1, 63, 512, 4096, 100_000])
@pytest.mark.parametrize("classes", [2, 1000, 85_742, 10_000_000])
def test_splits_cover_the_classes_once(rows, classes):
    splits = layout.split_classes(rows, classes, 64, 64, 2 * MULTIPROCESSORS)
    tiles = math.ceil(classes / 64)
    assert (splits.num - 1) * splits.tiles < tiles <= splits.num * splits.tiles
    assert splits.blocks == math.ceil(rows / 64)
    assert splits.num == 1 or splits.num * splits.blocks <= 2 * MULTIPROCESSORS
    chunk = layout.chunk_classes(rows, classes, 512, "bfloat16")
    assert chunk % layout.CHUNK_MULTIPLE == 0
    parts = layout.split_chunk(splits.blocks, chunk, 2 * MULTIPROCESSORS)
    assert (parts.num - 1) * parts.classes < chunk <= parts.num * parts.classes


def test_floor():
    one = traffic.Pass("a", flops=10, bytes=4)
    other = traffic.Pass("b", flops=1, bytes=100)
    assert traffic.floor_ms([one, other], 1.0, 10.0) == pytest.approx(1e3 * (10 + 10))


@pytest.mark.parametrize(
    ("rows", "classes", "dim"), [(128, 40_000_000, 512), (64, 17_000_000, 1024)]
)
def test_a_chunk_is_reached_with_offsets_of_32_bits(rows, classes, dim):
    """From the start of a tile of BLOCK_B rows to its last number."""
    chunk = layout.chunk_classes(rows, classes, dim, "bfloat16")
    assert layout.padded_rows(rows) * chunk < 2**31
