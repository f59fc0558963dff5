"""The work on B numbers, compiled for the GPUs it ships to: no spills, for every kind of margin.

The table is in the output of `pytest -rP tests/kernels/gpu/test_small_kernels.py`.
"""

import pytest
import torch
from gpu_launches import TARGETS, record_whole, recorded, usage
from margin_oracle import all_margins

from fusedface.kernels import SelfPaced, SelfPacedLinear
from fusedface.kernels.gpu import centre_step, class_centres, keys

SMALL = {"rows_kernel", "margin_kernel", "finish_kernel", "reduce_kernel", "factors_kernel"}
# Each kind of T but the shift, each average, N with and without, each option that is compiled in.
CASES = {
    "arcface easy": {"target_gradient": "straight_through", "reduction": "sum"},
    "curricularface": {},
    "combined": {"weighting": SelfPaced()},
    "adaface": {"focal_gamma": 2.0, "reduction": "none"},
    "magface": {"weighting": SelfPacedLinear()},
}


# Everything for one GPU; for the others one loss, with long rows.
@pytest.mark.parametrize(
    ("target", "dim", "names"),
    [
        ("sm_90", 128, CASES),
        *((target, 1024, ["adaface"]) for target in TARGETS if target != "sm_90"),
    ],
    ids=str,
)
def test_nothing_spills(target, dim, names, monkeypatch):
    margins, seen, wrong = all_margins(), set(), []
    for name in names:
        launches = record_whole(
            512, 85_742, dim, margins[name], target=target, of_rows=name in ("adaface", "magface"),
            monkeypatch=monkeypatch, **CASES[name],
        )  # fmt: skip
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


@pytest.mark.parametrize("target", TARGETS)
def test_keys_of_classes_do_not_spill(target, monkeypatch):
    with recorded(monkeypatch, target) as launches:
        keys._keys(torch.empty((), dtype=torch.int64, device="meta"), 85_743, 0)
    (launch,) = launches
    assert not usage(launch, target).spilled


def test_inputs_of_half_precision_and_small_labels(monkeypatch):
    launches = record_whole(
        33, 500, 100, all_margins()["curricularface"], dtype=torch.float16, labels=torch.int32,
        monkeypatch=monkeypatch,
    )  # fmt: skip
    for launch in launches:
        if launch.name in SMALL:
            assert not usage(launch, "sm_90").spilled


@pytest.mark.parametrize(
    ("target", "dim", "lr"),
    [
        ("sm_90", 128, 0.1), ("sm_90", 128, torch.empty((), device="meta")), ("sm_90", 1024, 0.1),
        *((target, 512, 0.1) for target in TARGETS),
    ],
    ids=str,
)  # fmt: skip
def test_the_step_of_class_centres_does_not_spill(target, dim, lr, monkeypatch):
    """With everything that it may do, and with a rate that a captured step reads."""
    weight, momentum = (torch.empty(85_742, dim, device="meta") for _ in range(2))
    number = torch.empty(1, device="meta")
    rates = centre_step.Rates(lr, 0.9, 5e-4, nesterov=True)
    class_centres.follow(weight)
    class_centres.unit_rows(weight, "bfloat16", training=True)
    with recorded(monkeypatch, target) as launches:
        centre_step.step(weight, weight.clone(), momentum, rates, number, number)
    (launch,) = launches
    used = usage(launch, target)
    print(f"{target:7} D={dim:<5}{launch.name} registers {used.registers} spilled {used.spilled}")
    assert not used.spilled
    assert not used.atomics
