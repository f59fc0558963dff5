"""Exponentials kept for the backward, as compiled, on an emulated GPU, against float64."""

import emulated_head
import pytest
import torch
from emulated_head import CAPABILITIES, emulated, step, torchs_own
from margin_oracle import all_margins, loss_and_gradients, matched_state, relative
from ptx_emulator import Options

ROWS, CLASSES = 67, 333
BUDGET = 2.0  # times the error that PyTorch makes in bfloat16


def hold(name, dim, capability, every_tile):
    margin = all_margins()[name]
    embeddings, weight, labels = emulated_head.inputs(margin, ROWS, CLASSES, dim)
    problem = (margin, embeddings, weight, labels, matched_state(margin, embeddings))
    truth = loss_and_gradients(*problem, reduction="sum")
    torchs = torchs_own(problem, "bfloat16", reduction="sum")
    with emulated(capability, Options(check_races=True)) as runs:
        for n in emulated_head.each_tile():
            results = step(problem, "bfloat16", reduction="sum", keep_exponentials=True)
            assert any("kept_products" in run.name for run in runs)
            for actual, expected, other in zip(results, truth, torchs, strict=True):
                error, allowed = relative(actual, expected), relative(other, expected)
                print(f"{error:.1e} ({error / allowed:.2f} x PyTorch's)", end="  ")
                assert error <= BUDGET * allowed
            if n == 0 and not every_tile:
                break


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dim", "capability"), [("curricularface", 300, 80), ("arcface", 128, 90)]
)
def test_a_step(name, dim, capability):
    hold(name, dim, capability, every_tile=False)


@pytest.mark.exhaustive
@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{}".format)
@pytest.mark.parametrize("dim", [7, 100, 128, 384, 512])
@pytest.mark.parametrize("name", ["cosface", "mvarc", "curricularface"])
def test_every_tile(name, dim, capability):
    hold(name, dim, capability, every_tile=True)


def test_the_same_bits_again_and_in_another_order():
    margin = all_margins()["curricularface"]
    embeddings, weight, labels = emulated_head.inputs(margin, 19, 70, 32)
    problem = (margin, embeddings, weight, labels, matched_state(margin, embeddings))
    results = []
    for options in (Options(1, check_races=True), Options(2, early_copies=True)):
        with emulated(80, options):
            results += [step(problem, "bfloat16", keep_exponentials=True) for _ in range(3)]
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
