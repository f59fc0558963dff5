"""Each verdict, from made-up curves whose verdict is known."""

import math

import pytest
import torch
from verdict_curves import ARCFACE, COLLAPSE, NUM_PAIRS, evaluations, falling, train, verdict

from fusedface.kernels import ArcFace, CurricularFace, MVArc
from fusedface.models import MarginHead, create
from fusedface.recipes.run_directory import verdict as verdicts
from fusedface.recipes.run_directory.verdict import COLLAPSE_STEPS, collapsed_since
from fusedface.recipes.training.diagnose import first_non_finite


def test_a_run_from_weights_need_not_surpass_them():
    """A checkpoint at 99.7 % that ends at 99.6 % has not fallen to chance; drawn weights would have."""
    lines = [*falling(), *evaluations(0.997, 0.996)]
    assert verdict(lines).verdict == "chance"
    found = verdict(lines, from_weights=True)
    assert found.verdict in ("converged", "unfinished")
    assert "accuracy is 99.60%, and was 99.70% at the start" in found.message
    lines = [*falling(), *evaluations(0.997, 0.51)]
    assert verdict(lines, from_weights=True).verdict == "chance"


def test_a_collapse_is_told_by_the_margin_of_the_end():
    losses = [50.0] * 20 + [COLLAPSE] * 20
    assert verdict(train(losses)).verdict == "collapsed"
    assert verdict(train([COLLAPSE] * 40), margin_begins=350).verdict != "collapsed"
    assert verdict(train([COLLAPSE] * 40), margin_begins=200).step == 210


def test_the_collapse_loss_is_the_closed_form():
    assert pytest.approx(64 * math.sin(0.5) + math.log(999), abs=1e-6) == COLLAPSE
    # Every negative is hard there: N(0) = t - 1 for each.
    assert MVArc(m=0.5, s=64.0, t=1.2).collapse_loss(1000) == pytest.approx(COLLAPSE + 64 * 0.2)


def test_the_collapse_loss_at_other_cosines():
    """Past pi - m: T = c - m sin m; N = t c + t - 1 for MV-Arc, c (t + c) for CurricularFace."""
    c = -0.94
    arc = 64 * 0.5 * math.sin(0.5) + math.log(999)
    assert ARCFACE.collapse_loss(1000, c) == pytest.approx(arc)
    mv = MVArc(m=0.5, s=64.0, t=1.4)
    assert mv.collapse_loss(1000, c) == pytest.approx(arc + 64 * (0.4 * c + 0.4))
    curricular = CurricularFace(m=0.5, s=64.0)
    expected = 64 * (0.3 * (0.2 + 0.3) - math.cos(math.acos(0.3) + 0.5)) + math.log(999)
    assert curricular.collapse_loss(1000, 0.3, {"t": 0.2}) == pytest.approx(expected)


def test_how_it_ended_comes_first():
    flat = train([COLLAPSE] * 100)
    assert verdict(flat, ended="interrupted").verdict == "interrupted"
    found = verdict(flat, ended="non_finite")
    assert (found.verdict, found.step, found.message) == ("non_finite", 7, "said")


def test_converged_and_unfinished():
    flat_end = evaluations(0.6, 0.8, 0.88, 0.9, 0.9004)
    assert verdict(falling() + flat_end).verdict == "converged"
    rising = verdict(falling() + evaluations(0.6, 0.7, 0.8, 0.85, 0.9))
    assert rising.verdict == "unfinished"
    assert rising.message.startswith("still rising at the end: accuracy rose by 2.00 points")
    worse = evaluations(0.6, 0.8, 0.9, 0.9, 0.85)
    assert verdict(falling() + worse).verdict == "converged"  # past its best: it does not rise


def test_without_evaluations_on_the_way_the_loss_decides():
    assert verdict(falling() + evaluations(0.6, 0.9)).verdict == "converged"
    straight = train([50.0 - 0.4 * i for i in range(100)], cosine=0.5)
    assert verdict(straight + evaluations(0.6, 0.9)).verdict == "unfinished"
    assert verdict(straight).verdict == "unfinished"


def test_chance():
    standard_error = math.sqrt(0.25 / NUM_PAIRS)
    near = evaluations(0.5, 0.55, 0.5 + 2.9 * standard_error)
    assert verdict(falling() + near).verdict == "chance"
    above = evaluations(0.5, 0.55, 0.5 + 3.1 * standard_error)
    assert verdict(falling() + above).verdict != "chance"
    no_better = verdict(falling() + evaluations(0.65, 0.64, 0.65))
    assert no_better.verdict == "chance"
    assert "65.0% before training" in no_better.message


@pytest.mark.parametrize("off", [-0.025, 0.0, 0.025])
@pytest.mark.parametrize("cosine", [-0.94, 0.0, 0.4])
def test_collapsed_names_the_step(off, cosine):
    lines = train([45.0] * 30, cosine=0.9)
    expected = ARCFACE.collapse_loss(1000, cosine)
    lines += train([45.0] * 30 + [expected * (1 + off)] * 70, cosine=cosine)[30:]
    found = verdict(lines + evaluations(0.5, 0.9, 0.9))
    assert (found.verdict, found.step) == ("collapsed", 310)


def test_a_collapse_with_a_state_of_its_own():
    """CurricularFace's t is that of each line, not that of the start."""
    margin = CurricularFace(m=0.5, s=64.0)
    lines = train([margin.collapse_loss(1000, 0.3, {"t": 0.2})] * 100, cosine=0.3)
    for line in lines:
        line["t"] = 0.2
    assert verdict(lines, margin=margin).verdict == "collapsed"
    for line in lines:
        line["t"] = 0.9
    assert verdict(lines, margin=margin).verdict != "collapsed"


@pytest.mark.parametrize(
    "lines",
    [
        train([45.0] * 50 + [COLLAPSE * 1.04] * 50, cosine=0.0),  # outside of the band
        train([COLLAPSE] * 99 + [5.0], cosine=0.0),  # it got out at the end
        train([45.0] * 95 + [COLLAPSE] * 5, cosine=0.0),  # too short
        train([COLLAPSE] * 100, cosine=-0.9),  # less than that would be a collapse there
        [],
    ],
)
def test_what_is_no_collapse(lines):
    assert collapsed_since(lines, ARCFACE, 1000) is None


def test_a_collapse_must_last_a_tenth_of_a_long_run():
    num = COLLAPSE_STEPS // 10 + 3
    short, long = ([45.0] * n + [COLLAPSE] * num for n in (50, 500))
    assert collapsed_since(train(short, cosine=0.0), ARCFACE, 1000) == 510
    assert collapsed_since(train(long, cosine=0.0), ARCFACE, 1000) is None


def test_a_collapse_of_exactly_the_least_length():
    """100 steps, and a tenth of 2000: both are long enough, ten steps fewer are not."""
    for num_before, since in ((20, 210), (179, 1800)):
        num_after = 11 if since == 210 else 21
        lines = train([45.0] * num_before + [COLLAPSE] * num_after, cosine=0.0)
        assert collapsed_since(lines, ARCFACE, 1000) == since
        later = train([45.0] * (num_before + 1) + [COLLAPSE] * (num_after - 1), cosine=0.0)
        assert collapsed_since(later, ARCFACE, 1000) is None


class Steady:
    """A margin whose collapse loss is 32, so that the edges of the band are exact numbers."""

    def initial_state(self):
        return {}

    def collapse_loss(self, num_classes, cosine, state):
        return 32.0


@pytest.mark.parametrize("edge", [31.0, 33.0])
def test_the_edge_of_the_band_belongs_to_it(monkeypatch, edge):
    monkeypatch.setattr(verdicts, "COLLAPSE_BAND", 1 / 32)
    assert collapsed_since(train([edge] * 100), Steady(), 1000) == 10
    beyond = edge + math.copysign(2**-20, edge - 32.0)
    assert collapsed_since(train([beyond] * 100), Steady(), 1000) is None


def test_three_standard_errors_from_half_is_still_chance():
    limit = 0.5 + verdicts.CHANCE_SIGMAS * math.sqrt(0.25 / NUM_PAIRS)
    assert verdict(falling() + evaluations(0.5, limit)).verdict == "chance"
    above = math.nextafter(limit, 1.0)
    assert verdict(falling() + evaluations(0.5, above)).verdict != "chance"


def test_a_mean_over_sets_of_unequal_size_is_no_surer_than_its_smallest_set():
    """Of 100 and 20,000 pairs: the standard error of the mean is sqrt(1/400 + 1/80000) / 2."""
    error = math.sqrt(1 / 400 + 1 / 80_000) / 2

    def ends_at(accuracy):
        lines = evaluations(0.4, accuracy)
        for line in lines:
            (figures,) = line["verification"].values()
            line["verification"] = {
                "small": figures | {"num_pairs": 100}, "large": figures | {"num_pairs": 20_000}
            }  # fmt: skip
        return verdict(falling() + lines).verdict

    assert ends_at(0.5 + 2.9 * error) == "chance"
    assert ends_at(0.5 + 3.1 * error) != "chance"


def test_better_than_untrained_by_anything_is_not_chance():
    better = math.nextafter(0.65, 1.0)
    assert verdict(falling() + evaluations(0.65, better)).verdict != "chance"


def test_the_last_part_is_the_last_tenth():
    """A gain between evaluations counts evenly: of 5 points from step 800 to 1000 half."""
    risen_by_then = evaluations(0.6, *[0.7] * 8, 0.9, 0.9)
    assert verdict(falling() + risen_by_then).verdict == "converged"
    fallen = evaluations(0.6, *[0.7] * 8, 0.9, 0.8)
    assert "fell by 10.00 points" in verdict(falling() + fallen).message
    assert "rose by 2.50 points" in verdict(falling() + evaluations(*[0.6] * 5, 0.65)).message
    fallen_by_then = train([40.0, *[30.0] * 7, 10.0, 10.0], every=100, cosine=0.5)
    assert verdict(fallen_by_then).verdict == "converged"
    fallen_after = train([40.0, *[30.0] * 8, 10.0], every=100, cosine=0.5)
    assert verdict(fallen_after).verdict == "unfinished"


def test_a_rise_that_came_before_the_end_is_over():
    """What the old rule called unfinished: a point in the last quarter, and nothing in its last part."""
    curve = evaluations(0.5, 0.6, 0.7, 0.78, 0.8, 0.85, 0.85, 0.86, 0.862, 0.8622, 0.8622)
    assert verdict(falling() + curve).verdict == "converged"


@pytest.mark.parametrize(("gained", "found"), [(0.0045, "converged"), (0.0055, "unfinished")])
def test_half_a_percentage_point_is_a_gain(gained, found):
    curve = evaluations(0.5, *[0.75] * 9, 0.75 + gained)
    assert verdict(falling() + curve).verdict == found


@pytest.mark.parametrize(("late", "found"), [(0.015, "converged"), (0.025, "unfinished")])
def test_a_fiftieth_of_the_fall_is_a_late_fall(late, found):
    """Of a loss that falls by 10 in all."""
    lines = train([20.0, *[15.0] * 7, 10.0 + 10.0 * late, 10.0], every=100, cosine=0.5)
    assert verdict(lines).verdict == found


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = create("mobilefacenet", embedding_dim=8, input_size=(32, 32), width=0.25)
    return model, MarginHead(8, 4, ArcFace()), torch.randn(4, 3, 32, 32)


def test_the_first_tensor_that_is_not_finite(network):
    model, head, images = network
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert first_non_finite(model, head, images) == "the loss"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    head(model(images), torch.arange(4)).loss.backward()
    model.stem.conv.weight.grad[0] = math.nan
    assert (
        first_non_finite(model, head, images) == "the gradient of the backbone's stem.conv.weight"
    )
    head.weight.grad[0] = math.inf
    assert first_non_finite(model, head, images) == "the gradient of the head's weight"
    head.weight.data[1] = math.nan
    assert first_non_finite(model, head, images) == "the head's weight"
    model.stem.bn.weight.data[0] = 3e38
    model.stem.bn.bias.data[0] = 3e38
    assert first_non_finite(model, head, images) == "what the backbone's stem.bn puts out"
    images[0] = math.inf
    assert first_non_finite(model, head, images) == "the images"
