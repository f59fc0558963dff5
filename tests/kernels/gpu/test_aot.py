"""Every tile shape that ships, compiled for the GPUs it ships to, on a machine without one.

The table is in the output of `pytest -rP tests/kernels/gpu/test_aot.py`.
"""

import pytest
from gpu_launches import TARGETS, record, usage

from fusedface.kernels.gpu.configs import SHARED_MEMORY

ROWS, CLASSES = 512, 85_742
REGISTERS = {"sm_80": 255, "sm_90": 255, "sm_100": 255, "gfx942": 512}
TENSOR_CORES = {
    "sm_80": {"mma.sync"},
    "sm_90": {"wgmma.mma_async"},
    "sm_100": {"tcgen05.mma"},
    "gfx942": {"v_mfma"},
}
PRODUCTS = {
    "flash_kernel",
    "centre_gradient_kernel",
    "lse_kernel",
    "coefficients_kernel",
    "embedding_product_kernel",
    "centre_product_kernel",
}
# Kinds of N: the quadratic of CurricularFace, MV's line, and none.
MODES = {"quadratic": (1.0, True), "linear": (0.0, True), "plain": (0.0, False)}
# Every schedule, every table, and the mode that needs most registers; then other modes and sizes.
CASES = [
    (dim, precision, "quadratic") for dim in (128, 256, 512) for precision in ("bfloat16", "tf32")
]
CASES += [(dim, "float16", "quadratic") for dim in (64, 128, 256, 512)]
CASES += [(128, "float32", "quadratic"), (512, "float32", "quadratic")]
CASES += [(128, "bfloat16", "linear"), (128, "bfloat16", "plain"), (256, "bfloat16", "plain")]
CASES += [(512, "bfloat16", "linear"), (512, "bfloat16", "plain")]
CASES += [(16, "bfloat16", "quadratic"), (32, "bfloat16", "plain"), (64, "tf32", "quadratic")]
CASES += [(16, "tf32", "quadratic"), (16, "float32", "quadratic"), (384, "bfloat16", "quadratic")]


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("dim", "precision", "mode"), CASES)
def test_what_ships_compiles_without_spills(target, dim, precision, mode, monkeypatch):
    square, reweights = MODES[mode]
    launches = [
        launch
        for train in (True, False)
        for launch in record(
            ROWS, CLASSES, dim, precision=precision, square=square, reweights=reweights,
            target=target, train=train, every_tile=True, monkeypatch=monkeypatch,
        )
    ]  # fmt: skip
    once = {(launch.name, launch.tile): launch for launch in launches}
    assert PRODUCTS & {name for name, _ in once}
    wrong = []
    for (name, tile), launch in once.items():
        used = usage(launch, target)
        shape = " ".join(f"{k}={v}" for k, v in tile.blocks().items()) if tile else ""
        warps = f"warps={tile.num_warps} stages={tile.num_stages}" if tile else ""
        line = (
            f"{target:7} D={dim:<4}{precision:9}{mode:10}{name:27}{shape:38}{warps:18}"
            f"registers {used.registers:3} spilled {used.spilled:4} shared {used.shared:6} "
            f"{used.products}"
        )
        print(line)
        fits = used.registers <= REGISTERS[target] and used.shared <= SHARED_MEMORY[target]
        tensor_cores = name not in PRODUCTS or used.products in TENSOR_CORES[target]
        if used.spilled or not fits or not tensor_cores:
            wrong.append(line)
    assert not wrong, "\n".join(["spills, does not fit, or has no tensor cores:", *wrong])
