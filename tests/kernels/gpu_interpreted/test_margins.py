"""Loss, gradients and statistics of every margin and option against the float64 oracle."""

import pytest
import torch
import torch.nn.functional as F
from margin_oracle import (
    all_margins,
    compare,
    fresh_state,
    inputs,
    loss_and_gradients,
    matched_state,
    reaches_branches,
    relative,
    rounded_loss_and_gradients,
    run,
)

from fusedface.kernels import margin_loss

MARGINS = all_margins()
# Float32 keeps 6e-8 of a cosine; at s = 64 a logit is off by 4e-6 and a probability by as much.
FLOAT32 = 3e-5
# One margin of each form that the kernels tell apart (nothing re-weighted, N linear, N quadratic, T of the
# length) meets both schedules and the smallest sizes; each, ragged ones with several row blocks and splits.
FORMS = ("arcface", "mvarc", "curricularface", "adaface")
SCHEDULES = ("narrow", "wide")
TINY, SMALL, RAGGED, ALIGNED = (1, 2, 16), (5, 131, 7), (67, 333, 48), (64, 256, 64)


def in_turn(cases):
    """Each case with one of the schedules, in turn."""
    return [(*case, SCHEDULES[i % 2]) for i, case in enumerate(cases)]


in_both = [(name, shape) for name in FORMS for shape in (TINY, SMALL)]
in_both += [("curricularface", RAGGED), ("curricularface", ALIGNED)]
SIZES = [(*case, schedule) for case in in_both for schedule in SCHEDULES]
SIZES += in_turn([(name, SMALL) for name in MARGINS if name not in FORMS])
SIZES += in_turn([(name, RAGGED) for name in FORMS if name != "curricularface"])
# Operands that reach both schedules as they ship; D is no power of two, or is large.
HALF_SHAPES = [(64, 384, 128), (33, 200, 100), (3, 70, 300), (48, 200, 512), (4, 60, 1000)]
BUDGET = 2.0  # times the error torch makes in the same precision


@pytest.mark.parametrize(("name", "shape", "schedule"), SIZES, indirect=["schedule"], ids=str)
def test_loss_and_gradients_match_the_oracle(name, shape, schedule):
    embeddings, weight, labels = inputs(*shape)
    if shape[0] > 1:
        assert reaches_branches(embeddings, weight, labels, 0.5)
    compare(MARGINS[name], embeddings, weight, labels, "triton", FLOAT32)


OPTIONS = [
    {"focal_gamma": 2.0},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"target_gradient": "straight_through"},
    {"ignore_index": -1},
    {"ignore_index": 255},
]


# The second margin meets an option in the other schedule.
@pytest.mark.parametrize(
    ("name", "options", "schedule"),
    in_turn(("curricularface", options) for options in OPTIONS)
    + in_turn(("adaface", options) for options in (*OPTIONS[1:], OPTIONS[0])),
    indirect=["schedule"],
    ids=str,
)
def test_options(name, options, schedule):
    embeddings, weight, labels = inputs(20, 141, 32)
    if "ignore_index" in options:
        labels[::3] = options["ignore_index"]
    compare(MARGINS[name], embeddings, weight, labels, "triton", FLOAT32, **options)


@pytest.mark.parametrize("name", FORMS)
def test_margins_are_told_apart(name):
    """The tolerance means something: no margin passes for another."""
    embeddings, weight, labels = inputs(12, 64, 32)
    embeddings *= 4.0  # lengths around AdaFace's initial mean
    out, _, _ = run(MARGINS[name], embeddings, weight, labels, fresh_state(MARGINS[name]), "triton")
    for wrong in MARGINS.keys() - {name}:
        loss, _, _ = loss_and_gradients(
            MARGINS[wrong], embeddings, weight, labels, fresh_state(MARGINS[wrong])
        )
        assert relative(out.per_sample_loss, loss) > 30 * FLOAT32


# N quadratic in every shape and precision; each shape once more with another N.
@pytest.mark.parametrize(
    ("name", "precision", "shape"),
    [
        ("curricularface", precision, shape)
        for precision in ("float16", "tf32")
        for shape in HALF_SHAPES
    ]
    + [(FORMS[i % 2], "float16", shape) for i, shape in enumerate(HALF_SHAPES)],
    ids=str,
)
def test_rounded_operands(name, precision, shape):
    """As shipped; tf32 has float16's fraction and more range, so it is held against torch's float16."""
    embeddings, weight, labels = inputs(*shape)
    margin = MARGINS[name]
    state = matched_state(margin, embeddings)
    truth = loss_and_gradients(margin, embeddings, weight, labels, state, reduction="sum")
    torchs = rounded_loss_and_gradients(
        margin, embeddings, weight, labels, state, torch.float16, reduction="sum"
    )
    out, *gradients = run(
        margin, embeddings, weight, labels, state, "triton", precision=precision, reduction="sum"
    )
    for actual, other, expected in zip(
        (out.per_sample_loss, *gradients), torchs, truth, strict=True
    ):
        assert relative(actual, expected) <= BUDGET * relative(other, expected)
    assert relative(out.per_sample_loss, truth[0]) > 1e-7  # operands were rounded


@pytest.mark.parametrize("name", ["curricularface"])
def test_no_gradient_along_a_class_centre(name):
    """Its length has none. What is left is the rounding of the centre itself to 11 bits, not that of g."""
    embeddings, weight, labels = inputs(100, 333, 512)
    margin = MARGINS[name]
    state = matched_state(margin, embeddings)
    _, _, dw = run(
        margin, embeddings, weight, labels, state, "triton", precision="float16", reduction="sum"
    )
    along = (dw.double() * F.normalize(weight.double(), dim=1)).sum(dim=1)
    assert along.abs().max() / dw.norm(dim=1).max() < 2.0**-13


@pytest.mark.parametrize(
    ("name", "dtype", "schedule"),
    in_turn([("arcface", torch.float16), ("arcface", torch.float32)])
    + in_turn([("curricularface", torch.float32), ("curricularface", torch.float16)]),
    indirect=["schedule"],
    ids=str,
)
def test_input_dtypes(name, dtype, schedule):
    """Half-precision inputs are exact inputs: only their gradients are rounded to their dtype."""
    embeddings, weight, labels = inputs(32, 201, 32, dtype=dtype)
    margin = MARGINS[name]
    state = fresh_state(margin)
    out, dx, dw = run(margin, embeddings, weight, labels, state, "triton")
    loss, dx_true, dw_true = loss_and_gradients(margin, embeddings, weight, labels, state)
    assert out.loss.dtype == torch.float32
    assert (dx.dtype, dw.dtype) == (dtype, dtype)
    assert relative(out.per_sample_loss, loss) < FLOAT32
    tolerance = max(torch.finfo(dtype).eps, FLOAT32)
    assert relative(dx, dx_true) < tolerance
    assert relative(dw, dw_true) < tolerance


@pytest.mark.parametrize(
    ("name", "schedule"),
    [(name, schedule) for name in ("normface", "curricularface") for schedule in SCHEDULES]
    + in_turn([("mvam",), ("mvarc",)]),
    indirect=["schedule"],
)
def test_statistics(name, schedule):
    embeddings, weight, labels = inputs(40, 203, 24)
    labels[7] = -1
    margin = MARGINS[name]
    state = fresh_state(margin)
    runs = [
        margin_loss(embeddings, weight, labels, margin, state=state, backend=backend)
        for backend in ("reference", "triton")
    ]
    expected, got = runs
    assert expected.hard_negatives.sum() > 0
    for field in ("hard_negatives", "correct"):
        assert torch.equal(getattr(got, field), getattr(expected, field))
    for field in ("target_cosine", "max_negative_cosine"):
        torch.testing.assert_close(
            getattr(got, field), getattr(expected, field), equal_nan=True, rtol=1e-5, atol=1e-6
        )
    torch.testing.assert_close(tuple(got.modulation), tuple(expected.modulation))


def test_no_hard_negatives(schedule):
    """Every embedding on its own class centre, and those orthogonal."""
    out = margin_loss(
        torch.eye(16), torch.eye(16), torch.arange(16), MARGINS["mvarc"], backend="triton"
    )
    assert out.hard_negatives.sum() == 0
    assert torch.stack(out.modulation).isnan().all()
