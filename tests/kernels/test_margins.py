"""Each margin by itself: T and N against closed forms, its state against hand arithmetic, its checks."""

import math
from dataclasses import asdict

import pytest
import torch
from margin_oracle import all_margins, fresh_state, target_logit

from fusedface.kernels import (
    LDAM,
    MARGINS,
    MVAM,
    AdaFace,
    ArcFace,
    Combined,
    CosFace,
    CurricularFace,
    MagFace,
    Margin,
    MVArc,
    SphereFace,
)
from fusedface.kernels.margins import Batch
from fusedface.kernels.margins.angular import MIN_SINE
from fusedface.kernels.margins.base import batch_mean

ANGLES = torch.linspace(0.01, math.pi - 0.01, 301, dtype=torch.float64)
ONES = torch.ones_like(ANGLES)


def batch(cos_y, norms=None, valid=None):
    """Samples of class 0 with these target cosines, of length 1 unless given."""
    valid = torch.ones(len(cos_y), dtype=torch.bool) if valid is None else valid
    norms = torch.ones_like(cos_y) if norms is None else norms
    return Batch(cos_y, norms, valid.long() - 1, valid)


@pytest.mark.parametrize("name", all_margins())
def test_target_follows_its_angle(name):
    margin = all_margins()[name]
    state = fresh_state(margin, torch.float64)
    norms = torch.linspace(0, 60, 301, dtype=torch.float64)
    expected = target_logit(margin, ANGLES.cos(), norms, state)
    torch.testing.assert_close(margin.target(batch(ANGLES.cos(), norms), state), expected)


@pytest.mark.parametrize("name", [n for n in all_margins() if "easy" not in n])
def test_target_never_rises_with_the_angle(name):
    """What the branch past pi - m and the bound of SphereFace are for."""
    margin = all_margins()[name]
    target = margin.target(batch(ANGLES.cos(), 20 * ONES), fresh_state(margin, torch.float64))
    assert (target.diff() <= 1e-12).all()


def test_exact_gradient_of_arcface_is_sin_ratio():
    cos = ANGLES.cos().requires_grad_()
    (slope,) = torch.autograd.grad(ArcFace(m=0.5).target(batch(cos), {}).sum(), cos)
    before = math.pi - 0.5 > ANGLES
    expected = torch.sin(ANGLES + 0.5) / torch.sin(ANGLES)
    torch.testing.assert_close(slope[before], expected[before])
    torch.testing.assert_close(slope[~before], torch.ones_like(slope[~before]))


@pytest.mark.parametrize("name", all_margins())
@pytest.mark.parametrize("cos_y", [1.0, -1.0, 1.0 + 1e-7, -1.0 - 1e-7])
def test_target_and_slope_are_finite_at_the_poles(name, cos_y):
    margin = all_margins()[name]
    cos = torch.tensor([cos_y], requires_grad=True)
    target = margin.target(batch(cos, torch.tensor([20.0])), fresh_state(margin))
    (slope,) = torch.autograd.grad(target.sum(), cos)
    assert slope.isfinite().all()
    pole = cos.detach().double().clamp(-1, 1)
    limit = target_logit(margin, pole, torch.tensor([20.0]), fresh_state(margin))
    assert abs(target.item() - limit.item()) < 2 * MIN_SINE


@pytest.mark.parametrize("m", [0.1, 0.5, math.pi / 2])
def test_the_bound_on_the_sine_moves_a_target_by_no_more_than_a_millionth(m):
    target = ArcFace(m=m).target(batch(torch.ones(1, dtype=torch.float64)), {})
    assert 0 < math.cos(m) - target.item() < 1.001e-6


def test_reweightings():
    cos = torch.linspace(-1, 1, 21, dtype=torch.float64)
    mv = MVArc(t=1.4).reweighting({})
    torch.testing.assert_close(mv.value(cos), 1.4 * cos + 0.4)
    torch.testing.assert_close(mv.slope(cos) * torch.ones_like(cos), torch.full_like(cos, 1.4))
    curricular = CurricularFace().reweighting({"t": torch.tensor(0.25, dtype=torch.float64)})
    torch.testing.assert_close(curricular.value(cos), cos * (0.25 + cos))
    torch.testing.assert_close(curricular.slope(cos), 0.25 + 2 * cos)


@pytest.mark.parametrize("name", MARGINS)
def test_reweighting_is_never_concave(name):
    margin = MARGINS[name]()
    hard = margin.reweighting(fresh_state(margin))
    assert hard.square >= 0


def test_t_follows_the_official_code():
    """0.01 on the new value, 0.99 on the old one, ignored rows left out."""
    margin, state = CurricularFace(), {"t": torch.tensor(0.0)}
    buffer = state["t"]
    cos_y = torch.tensor([0.2, 0.6, -5.0])
    valid = torch.tensor([True, True, False])
    margin.update_state(batch(cos_y, valid=valid), state)
    assert state["t"].item() == pytest.approx(0.01 * 0.4)
    margin.update_state(batch(cos_y, valid=valid), state)
    assert state["t"].item() == pytest.approx(0.01 * 0.4 + 0.99 * 0.01 * 0.4)
    assert state["t"] is buffer
    steps = math.ceil(math.log(0.05) / math.log(0.99))  # 95 % of the way after 299 updates
    state["t"].zero_()
    for _ in range(steps):
        margin.update_state(batch(cos_y, valid=valid), state)
    assert state["t"].item() == pytest.approx(0.4 * 0.95, abs=0.4 * 0.005)


def test_t_of_the_papers_text():
    state = {"t": torch.tensor(0.5)}
    CurricularFace(t_momentum=0.99).update_state(batch(ONES * 0.3), state)
    assert state["t"].item() == pytest.approx(0.99 * 0.3 + 0.01 * 0.5)


@pytest.mark.parametrize("values", [[math.nan, 0.1], [math.inf, 0.1]])
def test_a_bad_batch_leaves_the_state_alone(values):
    state = {"t": torch.tensor(0.5)}
    CurricularFace().update_state(batch(torch.tensor(values)), state)
    CurricularFace().update_state(batch(torch.tensor(values), valid=torch.zeros(2).bool()), state)
    assert state["t"].item() == 0.5


def test_a_batch_without_valid_rows_has_mean_0():
    values = torch.tensor([0.5, -3.0])
    assert batch_mean(values, torch.tensor([True, False])) == 0.5
    assert batch_mean(values, torch.tensor([False, False])) == 0.0


def test_adaface_statistics():
    margin, state = AdaFace(momentum=0.1), fresh_state(AdaFace())
    norms = torch.tensor([10.0, 30.0, 200.0, 7.0])  # 200 is clipped to 100, the last is ignored
    margin.update_state(batch(norms, norms, torch.tensor([True, True, True, False])), state)
    clipped = torch.tensor([10.0, 30.0, 100.0])
    assert state["norm_mean"].item() == pytest.approx(
        0.9 * 20 + 0.1 * clipped.mean().item(), rel=1e-5
    )
    assert state["norm_std"].item() == pytest.approx(
        0.9 * 100 + 0.1 * clipped.std().item(), rel=1e-5
    )
    before = state["norm_std"].item()
    margin.update_state(batch(norms[:1], norms[:1]), state)
    assert state["norm_std"].item() == before  # one sample has no deviation


def test_adaface_is_bounded_a_thousandth_before_0_and_pi():
    """Poor samples (quality -1) are moved away from their class, good ones (1) towards it."""
    margin, state = AdaFace(m=0.4), fresh_state(AdaFace(), torch.float64)
    off = torch.tensor([-5e-4, 5e-4, 2e-3], dtype=torch.float64)  # of the moved angle from the end
    for norm, moved, add in ((0.0, math.pi - off, 0.0), (1e9, off, 0.8)):
        state["norm_mean"].fill_(50.0)
        state["norm_std"].fill_(1.0)
        cos = torch.cos(moved + (0.4 if add else -0.4)).requires_grad_()
        target = margin.target(batch(cos, torch.full((3,), norm, dtype=torch.float64)), state)
        (slope,) = torch.autograd.grad(target.sum(), cos)
        bounded = torch.cos(moved.clamp(1e-3, math.pi - 1e-3))
        torch.testing.assert_close(target.detach(), bounded - add, rtol=0, atol=1e-9)
        assert slope[:2].tolist() == [0.0, 0.0]
        assert slope[2] > 0


@pytest.mark.parametrize("name", [n for n in all_margins() if "arc" in n or "curricular" in n])
def test_the_threshold_of_arc_margins_has_no_branch(name):
    """The raw cos(theta + m) at every angle, also where the target no longer follows it."""
    margin = all_margins()[name]
    threshold = margin.threshold(batch(ANGLES.cos()), fresh_state(margin, torch.float64))
    torch.testing.assert_close(threshold, torch.cos(ANGLES + margin.m))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MVArc(t=0.2), ["t must", "0.2", "did you mean 1 + t = 1.2"]),
        (lambda: MVAM(t=0.12), ["did you mean 1 + t = 1.12"]),
        (lambda: ArcFace(m=28.6), ["m must", "radians", "28.6"]),
        (lambda: ArcFace(m=math.pi), ["m must", "3.14"]),
        (lambda: CurricularFace(m=-0.1), ["m must", "-0.1"]),
        (lambda: CurricularFace(t_momentum=0.0), ["t_momentum", "0.0"]),
        (lambda: CosFace(m=2.5), ["m must", "2.5"]),
        (lambda: SphereFace(m=0.9), ["m must", "0.9"]),
        (lambda: ArcFace(s=0.0), ["s must", "0.0"]),
        (lambda: ArcFace(s=math.nan), ["s must", "nan"]),
        (lambda: ArcFace(s=1e300), ["s must", "1e+300", "1e6"]),
        (lambda: ArcFace(s=1e-300), ["s must", "1e-300", "1e-6"]),
        (lambda: AdaFace(h=0.0), ["h must"]),
        (lambda: MagFace(u_a=5.0), ["u_a must", "l_a = 10", "5.0"]),
        (lambda: MagFace(u_m=0.1), ["u_m must", "l_m = 0.45"]),
        (lambda: Combined(m1=0.5), ["m1 must", "0.5"]),
        (lambda: LDAM(max_m=2.0), ["max_m must", "2.0"]),
    ],
)
def test_bad_parameters_are_refused(make, words):
    with pytest.raises(ValueError, match="must be") as error:
        make()
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ArcFace(m="0.5"), ["m must be a number", "'0.5'"]),
        (lambda: ArcFace(s=None), ["s must be a number", "None"]),
        (lambda: ArcFace(m=True), ["m must be a number", "True"]),
        (lambda: ArcFace(easy_margin="no"), ["easy_margin must be True or False", "'no'"]),
        (lambda: MVArc(t="1.2"), ["t must be a number", "'1.2'"]),
        (lambda: LDAM(class_counts=[3, 4]), ["class_counts must be a tuple", "[3, 4]"]),
    ],
)
def test_parameters_of_the_wrong_kind_are_refused(make, words):
    with pytest.raises(TypeError) as error:
        make()
    assert all(word in str(error.value) for word in words)


def test_what_is_taken_unless_told():
    """The figures that the papers and their code use, as docs/losses.md has them."""
    taken = {name: asdict(make()) for name, make in MARGINS.items()}
    assert {name: values.pop("s") for name, values in taken.items()} == dict.fromkeys(MARGINS, 64.0)
    assert taken == {
        "normface": {},
        "cosface": {"m": 0.35},
        "arcface": {"m": 0.5, "easy_margin": False},
        "sphereface": {"m": 1.4},
        "combined": {"m1": 1.0, "m2": 0.3, "m3": 0.2},
        "mvam": {"m": 0.35, "t": 1.2},
        "mvarc": {"m": 0.5, "t": 1.2, "easy_margin": False},
        "curricularface": {"m": 0.5, "t_momentum": 0.01},
        "adaface": {"m": 0.4, "h": 0.333, "momentum": 0.01},
        "magface": {
            "l_a": 10.0, "u_a": 110.0, "l_m": 0.45, "u_m": 0.8, "lambda_g": 35.0, "easy_margin": False,
        },
        "ldam": {"max_m": 0.5, "class_counts": ()},
    }  # fmt: skip


def test_the_base_is_the_identity():
    """No margin, no re-weighting, no state, nothing added: a subclass adds only what is its own."""

    class Plain(Margin):
        name = "plain"

    margin, cos = Plain(), ANGLES.cos()
    assert torch.equal(margin.target(batch(cos), {}), cos)
    assert torch.equal(margin.threshold(batch(cos), {}), cos)
    assert margin.reweighting({}) == (0.0, 1.0, 0.0)
    assert margin.penalty(batch(cos), {}) is None
    assert margin.initial_state() == {}


def test_the_oracle_refuses_what_it_does_not_know():
    class Unheard(Margin):
        name = "unheard"

    with pytest.raises(LookupError, match="unheard"):
        target_logit(Unheard(), ANGLES.cos(), ONES, {})


@pytest.mark.parametrize(
    ("combined", "margin"),
    [
        (Combined(m1=1.4, m2=0.0, m3=0.0), SphereFace(m=1.4)),
        (Combined(m1=1.0, m2=0.0, m3=0.35), CosFace(m=0.35)),
        (Combined(m1=1.0, m2=0.5, m3=0.0), ArcFace(m=0.5)),
    ],
    ids=["sphereface", "cosface", "arcface"],
)
def test_the_combined_margin_holds_the_others(combined, margin):
    """Where theta + m < pi: past it ArcFace has its branch and the combined margin its bound."""
    cos = ANGLES[math.pi - 0.5 > ANGLES].cos()
    torch.testing.assert_close(combined.target(batch(cos), {}), margin.target(batch(cos), {}))


def test_magface_follows_the_lengths():
    """The figures of its paper: margins .45 to .8 between lengths 10 and 110, and no slope beyond."""
    margin = MagFace()
    cos_y = torch.full((5,), 0.6, dtype=torch.float64)
    norms = torch.tensor([1.0, 10.0, 60.0, 110.0, 500.0], dtype=torch.float64, requires_grad=True)
    theta = math.acos(0.6)
    expected = torch.tensor([theta + m for m in (0.45, 0.45, 0.625, 0.8, 0.8)]).double().cos()
    torch.testing.assert_close(
        margin.target(batch(cos_y, norms), {}), expected, rtol=1e-6, atol=1e-7
    )
    penalty = margin.penalty(batch(cos_y, norms), {})
    torch.testing.assert_close(penalty[2], torch.tensor(35 * (1 / 60 + 60 / 110**2)).double())
    (slope,) = torch.autograd.grad(penalty.sum(), norms)
    assert slope[[0, 4]].tolist() == [0.0, 0.0]
    assert slope[2].item() == pytest.approx(35 * (1 / 110**2 - 1 / 60**2))


def test_ldam_compiles_from_its_first_step():
    """On Python 3.11 the lock of a cached_property stopped the compiler; an eager step hid it."""
    margin = LDAM(max_m=0.6, class_counts=(16, 1, 81))
    margins = torch.compile(margin.class_margins, backend="eager", fullgraph=True)
    torch.testing.assert_close(margins(torch.device("cpu")), torch.tensor([0.3, 0.6, 0.2]))


def test_ldam_margins():
    """Classes of 1, 16 and 81 images: the largest margin, a half and a third of it."""
    margin = LDAM(max_m=0.6).with_class_counts((16, 1, 81))
    labels = torch.tensor([0, 1, 2, -1])
    of = Batch(torch.zeros(4).double(), torch.ones(4), labels, labels >= 0)
    target = margin.target(of, {})[:3]
    torch.testing.assert_close(target, -torch.tensor([0.3, 0.6, 0.2], dtype=torch.float64))
    assert margin.with_class_counts((5, 5)) is margin
    expected = [math.log1p(2 * math.exp(64 * m)) for m in (0.3, 0.6, 0.2)]
    assert margin.collapse_loss(3) == pytest.approx(sum(expected) / 3)
    with pytest.raises(ValueError, match=r"class_counts .*with_class_counts"):
        LDAM().target(of, {})
    with pytest.raises(ValueError, match=r"of 2 classes, got label 2"):
        LDAM(class_counts=(3, 4)).target(of, {})
    with pytest.raises(ValueError, match="at least 1 each, got 0"):
        LDAM(class_counts=(3, 0))
