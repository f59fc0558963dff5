"""Loss and gradients of the kernels as compiled, executed on an emulated GPU, against float64.

Every run checks bounds and races and starts from memory full of NaN. `pytest -m exhaustive` runs all.
"""

import emulated_head
import pytest
import torch
from emulated_head import CAPABILITIES, emulated, hold, inputs, references, step
from margin_oracle import all_margins, matched_state, reaches_branches
from ptx_emulator import Options

from fusedface.kernels import MVArc

MARGINS = all_margins() | {"mvarc t=1.2": MVArc(t=1.2)}
PRECISIONS = ("bfloat16", "tf32", "float16", "float32")
# Below 16, a power of two, padded to one, the longest narrow, padded to a multiple of 128, and long.
DIMS = (7, 64, 100, 128, 256, 300, 512)
ROWS, CLASSES = 67, 333  # ragged; several blocks of rows, splits and chunks

# Each kernel on both GPUs, each kind of N, each kind of operand: (margin, precision, D, capability).
FEW = [
    *(("curricularface", "bfloat16", dim, capability) for dim in (128, 512) for capability in CAPABILITIES),
    ("mvarc", "tf32", 300, 90),
    ("arcface", "bfloat16", 256, 90),
    ("mvarc t=1.2", "float16", 100, 80),
    ("cosface", "float32", 64, 80),
]  # fmt: skip
# Steps with wgmma, which runs while the threads go on, are run twice.
IN_TWO_ORDERS = [("curricularface", "bfloat16", dim, 90) for dim in (128, 512)]


def make_problem(name, dim, num_classes=CLASSES, state="mixed"):
    margin = MARGINS[name]
    embeddings, weight, labels = inputs(margin, ROWS, num_classes, dim, state=state)
    assert state != "mixed" or reaches_branches(embeddings, weight, labels, 0.5)
    return margin, embeddings, weight, labels, matched_state(margin, embeddings)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision", "dim", "capability"), FEW)
def test_a_step(name, precision, dim, capability):
    """Within the budget; some in another order of warps too, with early copies: the same bits."""
    problem = make_problem(name, dim)
    orders = [Options(1, check_races=True), Options(2, early_copies=True)]
    results = []
    for options in orders if (name, precision, dim, capability) in IN_TWO_ORDERS else orders[:1]:
        with emulated(capability, options):
            results.append(step(problem, precision, reduction="sum"))
    hold(results[0], *references(problem, precision, reduction="sum"))
    assert all(map(torch.equal, results[0], results[-1]))


@pytest.mark.exhaustive
@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{}".format)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", MARGINS)
def test_every_tile(name, dim, precision, capability):
    problem = make_problem(name, dim)
    expected = references(problem, precision, reduction="sum")
    with emulated(capability, Options(check_races=True)):
        for _ in emulated_head.each_tile():
            hold(step(problem, precision, reduction="sum"), *expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{}".format)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dim", [128, 512])
@pytest.mark.parametrize("state", ["hard", "few"])
@pytest.mark.parametrize("name", ["mvam", "mvarc t=1.2", "curricularface"])
def test_few_negatives_are_hard_or_all(name, state, dim, precision, capability):
    problem = make_problem(name, dim, state=state)
    with emulated(capability, Options(check_races=True)):
        expected = references(problem, precision, reduction="sum")
        hold(step(problem, precision, reduction="sum"), *expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{}".format)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", ["cosface", "mvarc t=1.2", "curricularface"])  # the kinds of N
def test_orders_of_warps(name, dim, precision, capability):
    """Every tile shape gives the same bits in lockstep, in reverse, shuffled, with copies early or late."""
    problem = make_problem(name, dim)
    orders = (("lockstep", False), ("reversed", True), (1, False), (2, True))
    results = []
    for order, early in orders:
        with emulated(capability, Options(order, early_copies=early)):
            results.append([step(problem, precision) for _ in emulated_head.each_tile()])
    for others in results[1:]:
        for tile, other in zip(results[0], others, strict=True):
            assert all(map(torch.equal, tile, other))


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "precision"), [(16, "bfloat16"), (32, "tf32"), (128, "bfloat16")])
def test_equal_columns_have_equal_gradients(dim, precision):
    """To the bit: all lanes that hold a row project and divide by the same sums over it."""
    embeddings, weight, labels = inputs(MARGINS["arcface"], ROWS, CLASSES, dim)
    far = dim // 2 + 1  # the two halves of a warp once had sums of their own
    embeddings[:, far], weight[:, far] = embeddings[:, 0], weight[:, 0]
    with emulated(80):
        _, *gradients = step((MARGINS["arcface"], embeddings, weight, labels, {}), precision)
    for gradient in gradients:
        assert torch.equal(gradient[:, 0], gradient[:, far])
