"""What is computed from the runs of a comparison, against figures worked out by hand."""

import math
from dataclasses import replace

import pytest
from tiny_run import tiny_recipe

from fusedface.kernels import ArcFace, CurricularFace
from fusedface.recipes.compare.paired import holm, paired_test
from fusedface.recipes.compare.plan import PlannedRun
from fusedface.recipes.compare.results import RunResult
from fusedface.recipes.compare.screen import sparkline
from fusedface.recipes.compare.statistics import SHARES, steps_to, summarise
from fusedface.recipes.run_directory.summary import Summary


def result(label, seed, accuracies, *, verdict="converged", margin=None, folder=None):
    """A run with one set, an evaluation every ten steps."""
    recipe = replace(tiny_recipe(folder), name=label)
    recipe = replace(recipe, head=replace(recipe.head, margin=margin or ArcFace()))
    evaluations = [
        {
            "kind": "evaluation",
            "step": 10 * i,
            "verification": {"lfw": {"accuracy": a, "tar_at_far": {"0.1": a - 0.1, "0.01": None}}},
        }
        for i, a in enumerate(accuracies)
    ]
    steps = 10 * (len(accuracies) - 1)
    num_steps = steps if verdict == "converged" else steps + 10
    summary = Summary(
        recipe=label, seed=seed, device="cpu", verdict=verdict, verdict_step=None, message="",
        steps=steps, num_steps=num_steps, seconds=1.0, images_per_second=1.0, peak_memory_mib=seed,
        final_loss=1.0, initial_loss=1.0, collapse_loss=1.0, num_identities=2, num_images=2,
        unreadable_images=0,
    )  # fmt: skip
    # 50 ms a step but for the first lines, which are slow, and an interruption.
    seconds = {10: 3.0, 20: 3.5, 30: 4.0, 40: 99.0, 50: 99.5}
    lines = [
        {"kind": "train", "step": n, "seconds": t, "target_cosine": n / 100}
        for n, t in seconds.items()
    ]
    return RunResult(lines, evaluations, summary, PlannedRun(label, seed, recipe, folder))


def test_the_figures_worked_out_by_hand(tmp_path):
    def of(label, *curves, **options):
        return [result(label, i, c, folder=tmp_path, **options) for i, c in enumerate(curves)]

    results = [
        *of("ours", [0.5, 0.8, 0.90], [0.5, 0.8, 0.94], [0.5, 0.9, 0.95], margin=CurricularFace()),
        *of("theirs", [0.5, 0.91, 0.88], [0.5, 0.8, 0.90], [0.5, 0.8, 0.88]),
        *of("lost", [0.5, 0.6], [0.5, 0.55], [0.5, 0.5], verdict="non_finite"),
    ]
    ours, theirs, lost = summarise(results)
    assert [ours.label, theirs.label, lost.label] == ["ours", "theirs", "lost"]
    assert ours.final.mean == pytest.approx(0.93)
    assert ours.final.std == pytest.approx(math.sqrt((0.03**2 + 0.01**2 + 0.02**2) / 2))
    assert ours.margin == "s=64 m=0.5 t_momentum=0.01"
    assert theirs.best.mean == pytest.approx((0.91 + 0.90 + 0.88) / 3)
    assert (ours.far, ours.tar.mean) == ("0.1", pytest.approx(0.83))
    assert (lost.final, lost.tar, lost.verdicts) == (None, None, {"non_finite": 3})
    assert ours.ms_per_step == pytest.approx(50.0)
    assert ours.peak_memory_mib == 2
    assert (ours.cosine.mean, lost.cosine) == (0.5, None)

    # 90 % of the best accuracy, 0.95: 0.855, between evaluations.
    assert SHARES[0] == 0.9
    expected = [10 + 10 * 0.055 / 0.10, 10 + 10 * 0.055 / 0.14, 10 * 0.355 / 0.4]
    assert ours.steps_to[0].mean == pytest.approx(sum(expected) / 3)
    assert theirs.steps_to[2] is None

    # Differences 0.02, 0.04, 0.07; t = mean / (std / sqrt 3); p of two sides with two degrees of freedom
    # has the closed form 1 - t / sqrt(2 + t^2).
    mean, std = 0.13 / 3, ours.against
    assert std is None
    spread = math.sqrt(sum((d - mean) ** 2 for d in (0.02, 0.04, 0.07)) / 2)
    t = mean / (spread / math.sqrt(3))
    assert theirs.against.difference.mean == pytest.approx(mean)
    assert theirs.against.p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert theirs.against.p_holm == theirs.against.p  # a single test
    # The 0.975 quantile of two degrees of freedom has a closed form: x / sqrt(1 - x^2) sqrt 2, x = 0.95.
    half = 0.95 / math.sqrt(1 - 0.95**2) * math.sqrt(2) * spread / math.sqrt(3)
    assert theirs.against.interval == pytest.approx((mean - half, mean + half))
    # Gamma(1) / (sqrt(1) Gamma(1/2)) = 1 / sqrt(pi)
    assert theirs.against.effect == pytest.approx(mean / spread / math.sqrt(math.pi))
    assert lost.against is None


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_differences_that_are_equal_up_to_rounding_have_no_p():
    """Two seeds of LFW differed by 3.75 points each; the last bits gave p = 0.000."""
    first, second = (0.8525, 0.89), (0.835, 0.8725)
    assert first[0] - first[1] != second[0] - second[1]
    assert paired_test([first, second]).p is None
    assert paired_test([first, (0.835, 0.8735)]).p is not None


def test_steps_to():
    curve = [(0, 0.5), (10, 0.7), (20, 0.6), (30, 0.9)]
    assert steps_to(curve, 0.6) == pytest.approx(5.0)
    assert steps_to(curve, 0.8) == pytest.approx(20 + 10 * 2 / 3)
    assert steps_to(curve, 0.4) == 0.0
    assert steps_to(curve, 0.95) is None
    assert steps_to([], 0.5) is None


def test_sparkline():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], 2) == "▁█"
    assert sparkline([2.0, 2.0], 4) == "▁▁"
    assert sparkline([], 4) == ""
