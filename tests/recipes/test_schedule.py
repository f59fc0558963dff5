"""The learning rate against values worked out by hand."""

import pytest

from fusedface.recipes.configuration.recipe import Schedule
from fusedface.recipes.training.schedule import LearningRate, num_steps


def rates(base, steps, **settings):
    lr = LearningRate(base=base, num_steps=steps, schedule=Schedule(**settings))
    return [lr(step) for step in range(steps)]


def test_warm_up_reaches_the_rate_at_its_last_step():
    warmed = rates(0.4, 8, warmup_steps=4, kind="polynomial", power=1.0)
    assert warmed == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1])


def test_cosine():
    expected = [0.2, 0.2 * 0.8535534, 0.1, 0.2 * 0.1464466]
    assert rates(0.2, 4, kind="cosine") == pytest.approx(expected)


def test_polynomial_of_power_two_is_the_one_of_the_published_log():
    """insightface's ms1mv2_mbf log: rate .0679 at step 40,010 of 227,440, from .1."""
    schedule = Schedule(kind="polynomial", power=2.0)
    lr = LearningRate(base=0.1, num_steps=227_440, schedule=schedule)
    assert lr(40_010) == pytest.approx(0.0679, abs=5e-5)


def test_step_falls_at_its_milestones():
    fallen = rates(1.0, 10, kind="step", milestones=(0.3, 0.75), gamma=0.1)
    assert fallen == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_the_rate_is_never_negative_and_ends_low():
    for kind in ("cosine", "polynomial"):
        values = rates(0.1, 100, kind=kind, warmup_steps=10)
        assert min(values) > 0
        assert values[-1] < 0.001
        assert max(values) == 0.1


def test_length():
    assert num_steps(Schedule(epochs=6.0), 34) == 204
    assert num_steps(Schedule(epochs=0.5), 5) == 2
    assert num_steps(Schedule(epochs=0.001), 5) == 1
    assert num_steps(Schedule(epochs=6.0, steps=17), 34) == 17


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(
        ValueError, match=r"schedule\.warmup_steps must be below the 5 steps.*got 5"
    ):
        LearningRate(base=0.1, num_steps=5, schedule=Schedule(warmup_steps=5))
