"""A head whose class centres are split over processes is the head of one process."""

import pytest
import torch
from gloo import outcome, run_cases
from sharded_cases import CASES, TWENTY_STEPS

from fusedface.kernels import ArcFace, margin_loss
from fusedface.kernels.sharded import classes_of
from fusedface.models import MarginHead


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    return {n: run_cases("sharded_cases", n, tmp_path_factory.mktemp(f"ranks{n}")) for n in (2, 4)}


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_several_processes(reports, num_ranks, case):
    problem = outcome(reports[num_ranks], case)
    assert not problem, problem


@pytest.mark.exhaustive
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_twenty_steps(num_ranks, tmp_path):
    reports = run_cases("sharded_cases", num_ranks, tmp_path, "TWENTY_STEPS")
    problems = [outcome(reports, case) for case in TWENTY_STEPS]
    assert not any(problems), "\n".join(problems)


@pytest.mark.parametrize(
    ("num_classes", "num_ranks"), [(13, 4), (5, 4), (2, 4), (8, 2), (7, 1), (100, 64)]
)
def test_every_class_is_on_one_rank(num_classes, num_ranks):
    shards = [classes_of(num_classes, rank, num_ranks) for rank in range(num_ranks)]
    assert [j for shard in shards for j in shard] == list(range(num_classes))
    chunks = torch.arange(num_classes).chunk(num_ranks)
    assert [len(shard) for shard in shards if shard] == [len(chunk) for chunk in chunks]


def test_a_group_without_torchrun_is_an_error():
    x, weight, labels = torch.ones(2, 4), torch.ones(3, 4), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="torchrun"):
        MarginHead(4, 3, process_group="world")
    with pytest.raises(ValueError, match="torchrun"):
        margin_loss(x, weight, labels, ArcFace(), process_group="world")
    with pytest.raises(TypeError, match="process_group"):
        MarginHead(4, 3, process_group="nonsense")
