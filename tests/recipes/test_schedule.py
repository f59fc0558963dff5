"""What happens at which step, against values worked out by hand."""

from collections import Counter

import pytest
import torch

from fusedface.data import FaceDataset, SyntheticFaces
from fusedface.models import Preprocessing
from fusedface.recipes.configuration.recipe import Schedule
from fusedface.recipes.configuration.settings import override
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.registry import get_recipe
from fusedface.recipes.training.batches import Batches
from fusedface.recipes.training.learning_rate import LearningRate, num_steps
from fusedface.recipes.training.plan import Timetable, make_plan


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


def test_each_epoch_is_another_order_of_the_same_images():
    batches = Batches(num_images=23, batch_size=5, seed=3)
    assert batches.steps_per_epoch == 4
    epochs = [list(batches.rest_of_epoch(step)) for step in (0, 4)]
    for epoch in epochs:
        indices = [index for batch in epoch for index in batch]
        assert max(Counter(indices).values()) == 1
        assert set(indices) <= set(range(23))
        assert [len(batch) for batch in epoch] == [5, 5, 5, 5]
    assert epochs[0] != epochs[1]
    assert list(batches.rest_of_epoch(6)) == epochs[1][2:]
    assert list(Batches(23, 5, seed=4).rest_of_epoch(0)) != epochs[0]
    small = Batches(num_images=3, batch_size=5, seed=0)
    assert sorted(next(small.rest_of_epoch(7))) == [0, 1, 2]


def test_no_seed_shares_an_epoch_with_another():
    """Seeds that differ by one are the usual ones of a comparison."""
    orders = {
        (seed, epoch): tuple(next(Batches(40, 40, seed).rest_of_epoch(epoch)))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(set(orders.values())) == len(orders)


def test_what_follows_which_step():
    """Lines every 2 steps, evaluations every 3, checkpoints every 4 and with each evaluation; all at 7."""
    table = Timetable(num_steps=7, log_every=2, evaluate_every=3, checkpoint_every=4)
    steps = range(1, 8)
    assert [step for step in steps if table.logs(step)] == [2, 4, 6, 7]
    assert [step for step in steps if table.evaluates(step)] == [3, 6, 7]
    assert [step for step in steps if table.saves(step)] == [3, 4, 6, 7]
    rare = Timetable(num_steps=7, log_every=9, evaluate_every=0, checkpoint_every=9)
    for follows in (rare.logs, rare.evaluates, rare.saves):
        assert [step for step in steps if follows(step)] == [7]


@pytest.mark.parametrize(
    ("epochs", "steps"), [(0.55, 55), (0.551, 56), (1.5, 150), (0.0, 0), (1e-9, 1)]
)
def test_a_time_in_epochs_in_steps(epochs, steps):
    recipe = override(
        get_recipe("mobilefacenet-arcface"), [f"evaluation.every={epochs}", "optim.batch_size=2"]
    )
    plan = make_plan(recipe, SyntheticFaces(20, 10, image_size=(32, 32)), Processes())
    assert plan.timetable.evaluate_every == steps


def test_each_epoch_is_augmented_anew():
    """From wherever it begins: the images are those of the dataset at that epoch."""
    source = SyntheticFaces(5, 3, image_size=(32, 32))
    preprocessing = Preprocessing(input_size=(32, 32))
    dataset, other = (FaceDataset(source, "flip", preprocessing, seed=2) for _ in range(2))
    batches = Batches(len(source), 7, seed=3)
    assert batches.steps_per_epoch == 2
    for step, epoch in ((0, 0), (1, 0), (2, 1), (5, 2)):
        other.set_epoch(epoch)
        expected = [other.batch(indices).seen() for indices in batches.rest_of_epoch(step)]
        loaded = batches.load(dataset, step, num_workers=0, pin_memory=False)
        found = [batch.seen() for batch in loaded]
        assert len(found) == len(expected) == 2 - step % 2
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
