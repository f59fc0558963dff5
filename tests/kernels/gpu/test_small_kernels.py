"""The work on B numbers, compiled for the GPUs it ships to: no spills, for every kind of margin.

The table is in the output of `pytest -rP tests/kernels/gpu/test_small_kernels.py`.
"""

import pytest
import torch
from gpu_launches import TARGETS, record_whole, usage
from margin_oracle import all_margins

from fusedface.kernels.gpu import loss

SMALL = {name for name in vars(loss) if name.endswith("_kernel")}
# One of each kind of T, of each rule of the state, of each N, and every option that is compiled in.
CASES = {
    "cosface": {},
    "arcface": {"reduction": "sum"},
    "arcface easy": {"target_gradient": "straight_through"},
    "mvarc": {"focal_gamma": 1.0},
    "curricularface": {},
    "combined": {},
    "adaface": {"focal_gamma": 2.0, "reduction": "none"},
}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dim", [128, 1024])
def test_nothing_spills(target, dim, monkeypatch):
    margins, seen, wrong = all_margins(), set(), []
    for name, options in CASES.items():
        launches = record_whole(
            512, 85_742, dim, margins[name], target=target, monkeypatch=monkeypatch, **options
        )
        for launch in launches:
            variant = (launch.name, *sorted(launch.constants.items()))
            if launch.name not in SMALL or variant in seen:
                continue
            seen.add(variant)
            used = usage(launch, target)
            line = f"{target:7} D={dim:<5}{name:16}{launch.name:16}registers {used.registers:3}"
            line += f" spilled {used.spilled}"
            print(line)
            if used.spilled or used.atomics:
                wrong.append(line)
    assert {name for name, *_ in seen} == SMALL
    assert not wrong, "\n".join(["spills or has atomics:", *wrong])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inputs_of_half_precision_and_small_labels(dtype, monkeypatch):
    launches = record_whole(
        33, 500, 100, all_margins()["curricularface"], dtype=dtype, labels=torch.int32,
        monkeypatch=monkeypatch,
    )  # fmt: skip
    for launch in launches:
        if launch.name in SMALL:
            assert not usage(launch, "sm_90").spilled
