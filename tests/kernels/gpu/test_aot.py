"""Tile shapes that ship, compiled for the GPUs they ship to, on a machine without one.

A sample is always compiled: the first choice of each kernel, every schedule and every GPU. With
`-m exhaustive` every tile shape is, and `-rP` prints the table.
"""

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl
from gpu_launches import NONE_SPILLS, TARGETS, Launch, record, usage

from fusedface.kernels.gpu.tiles import SHARED_MEMORY

ROWS, CLASSES = 512, 85_742
REGISTERS = {"sm_80": 255, "sm_90": 255, "sm_100": 255, "gfx942": 512}
TENSOR_CORES = {
    "sm_80": {"mma.sync"},
    "sm_90": {"wgmma.mma_async"},
    "sm_100": {"tcgen05.mma"},
    "gfx942": {"v_mfma"},
}
MIXED = {"sm_90": "wgmma.mma_async and mma.sync", "sm_100": "tcgen05.mma and mma.sync"}
WGMMA_ROWS = (
    64  # of a product at least: with fewer classes in a tile their gradient's product is mma.sync
)
PRODUCTS = {
    "flash_kernel",
    "centre_gradient_kernel",
    "lse_kernel",
    "coefficients_kernel",
    "products_kernel",
}
# Kinds of N: the quadratic of CurricularFace, MV's line, and none.
MODES = {"quadratic": (1.0, True), "linear": (0.0, True), "plain": (0.0, False)}
# Every schedule, every table: (D, precision, kind of N, whether beyond the first tile shape).
CASES = [(dim, "bfloat16", "quadratic", True) for dim in (128, 256, 512)]
CASES += [(dim, "tf32", "quadratic", True) for dim in (128, 512)]
CASES += [(256, "float16", "quadratic", True), (512, "float32", "quadratic", True)]
# The longest rows, and long ones whose length divides nothing.
CASES += [(1024, "bfloat16", "quadratic", True), (890, "bfloat16", "quadratic", True)]
CASES += [(1024, precision, "quadratic", False) for precision in ("float16", "tf32", "float32")]
CASES += [(890, "tf32", "quadratic", False), (100, "bfloat16", "quadratic", False)]
# Other precisions, sizes and kinds of N: the first choice.
CASES += [(128, "float16", "quadratic", False), (512, "float16", "quadratic", False)]
CASES += [(dim, "bfloat16", "plain", False) for dim in (128, 256, 512)]
CASES += [(128, "bfloat16", "linear", False), (512, "bfloat16", "linear", False)]
CASES += [(16, "bfloat16", "quadratic", False), (64, "float16", "quadratic", False)]
CASES += [(32, "tf32", "quadratic", False), (128, "float32", "quadratic", False)]
# Few columns, and an odd number, whose rows are stored number by number.
CASES += [(dim, "bfloat16", "quadratic", True) for dim in (15, 63, 64, 255)]
CASES += [(511, "bfloat16", "quadratic", False)]
# All of them for the GPUs whose machine code is read closely; for the others, every tile shape.
READ_CLOSELY = ("sm_80", "sm_90")
COMPILED = [
    (target, *case) for target in TARGETS for case in CASES if target in READ_CLOSELY or case[3]
]


# Both schedules on every GPU, and each precision and kind of N on one of them.
SAMPLE = [(target, *CASES[0][:3]) for target in TARGETS]
SAMPLE += [("sm_90", 512, "bfloat16", "linear"), ("sm_90", 256, "float16", "quadratic")]
SAMPLE += [("sm_90", 100, "bfloat16", "quadratic"), ("sm_80", 64, "float16", "quadratic")]
SAMPLE += [("sm_90", 16, "bfloat16", "quadratic"), ("sm_90", 63, "bfloat16", "quadratic")]
SAMPLE += [("sm_80", 512, "tf32", "quadratic"), ("sm_80", 890, "bfloat16", "quadratic")]
SAMPLE += [("sm_80", 1024, "tf32", "quadratic"), ("sm_80", 128, "bfloat16", "plain")]
SAMPLE += [("sm_100", 512, "float32", "quadratic"), ("sm_100", 512, "bfloat16", "quadratic")]
SAMPLE += [("gfx942", 1024, "bfloat16", "quadratic"), ("gfx942", 128, "tf32", "quadratic")]
assert set(SAMPLE) <= {case[:4] for case in COMPILED}


@pytest.mark.slow
@pytest.mark.parametrize(("target", "dim", "precision", "mode"), SAMPLE)
def test_first_choices_compile_without_spills(target, dim, precision, mode, monkeypatch):
    launches = recorded_launches(target, dim, precision, mode, monkeypatch)
    with_small = (dim, precision, mode) == CASES[0][:3]
    check(target, dim, precision, mode, launches, every_tile=False, with_small=with_small)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dim", "precision"), [(64, "bfloat16"), (128, "bfloat16"), (128, "float16")]
)
def test_every_narrow_tile_shape_of_sm_90_compiles_without_spills(dim, precision, monkeypatch):
    """With half-precision operands two products follow each other, and the second one once waited."""
    launches = recorded_launches("sm_90", dim, precision, "quadratic", monkeypatch)
    narrow = [la for la in launches if la.name in ("flash_kernel", "centre_gradient_kernel")]
    assert len({(la.name, la.tile) for la in narrow}) >= 6
    check("sm_90", dim, precision, "quadratic", narrow, every_tile=True, with_small=False)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("target", "dim", "precision", "mode", "every_tile"), COMPILED)
def test_what_ships_compiles_without_spills(target, dim, precision, mode, every_tile, monkeypatch):
    launches = recorded_launches(target, dim, precision, mode, monkeypatch)
    check(target, dim, precision, mode, launches, every_tile, with_small=every_tile)


def recorded_launches(target, dim, precision, mode, monkeypatch):
    square, reweights = MODES[mode]
    return [
        launch
        for train in (True, False)
        for launch in record(
            ROWS, CLASSES, dim, precision=precision, square=square, reweights=reweights,
            target=target, train=train, every_tile=True, monkeypatch=monkeypatch,
        )
    ]  # fmt: skip


def check(target, dim, precision, mode, launches, every_tile, with_small):
    """Compile each kernel with its first choice or with all; those without products are alike but for D."""
    once = {(launch.name, launch.tile): launch for launch in launches if with_small or launch.tile}
    assert PRODUCTS & {name for name, _ in once}
    runs, wrong = set(), []
    for launch in once.values():
        name = launch.name
        if name in runs and not every_tile:
            continue
        used = usage(launch, target)
        line = described(target, dim, precision, mode, launch, used)
        print(line)
        if target == "gfx942" and every_tile and used.shared > SHARED_MEMORY[target]:
            continue  # loading it fails, and the next is taken: 16 columns are laid out again for v_mfma
        fits = used.registers <= REGISTERS[target] and used.shared <= SHARED_MEMORY[target]
        expected = TENSOR_CORES[target]
        of_rows = launch.tile.block_c if name == "centre_gradient_kernel" else WGMMA_ROWS
        if target in MIXED and every_tile and of_rows < WGMMA_ROWS:  # never the first choice
            expected = {MIXED[target]}
        tensor_cores = name not in PRODUCTS or used.products in expected
        if not used.spilled:
            runs.add(name)
        planned = launch.tile.programs if launch.tile and target != "gfx942" else 1
        room = target == "gfx942" or planned <= used.programs(
            target, launch.tile.num_warps if launch.tile else 4
        )
        by_compiler = NONE_SPILLS and (used.spilled or not room)
        if by_compiler or used.serial or used.atomics or not fits or not tensor_cores:
            wrong.append(line)
    problem = "spills, waits, does not fit as often as planned, has atomics or no tensor cores:"
    assert not wrong, "\n".join([problem, *wrong])
    assert runs == {name for name, _ in once}, "no tile shape is left that does not spill"


def described(target, dim, precision, mode, launch, used):
    tile = launch.tile
    shape = " ".join(f"{k}={v}" for k, v in tile.blocks().items()) if tile else ""
    warps = f"warps={tile.num_warps} stages={tile.num_stages}" if tile else ""
    return (
        f"{target:7} D={dim:<5}{precision:9}{mode:10}{launch.name:27}{shape:38}{warps:18}"
        f"registers {used.registers:3} spilled {used.spilled:4} shared {used.shared:6} "
        f"{used.products}{' SERIAL' if used.serial else ''}"
    )


def test_a_kernel_that_spills_is_seen(monkeypatch):
    """Twice the rows that ship: their weighted sums do not fit in the registers."""
    launches = record(ROWS, CLASSES, 128, target="sm_90", monkeypatch=monkeypatch)
    flash = next(launch for launch in launches if launch.name == "flash_kernel")
    tile = replace(flash.tile, block_b=2 * flash.tile.block_b)
    constants = flash.constants | tile.blocks()
    assert usage(replace(flash, tile=tile, constants=constants), "sm_90").spilled > 0


@triton.jit
def counting_kernel(out_ptr, BLOCK: tl.constexpr):
    tl.atomic_add(out_ptr + tl.arange(0, BLOCK), 1.0)


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_atomics_are_seen(target):
    launch = Launch(
        counting_kernel, "counting_kernel", 1, (torch.empty(64, device="meta"),), {"BLOCK": 64}
    )
    assert usage(launch, target).atomics
