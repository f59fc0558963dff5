"""Whole training steps from a graph whose work is repeated as on a GPU: none of the step's code runs again.

Kernels run as compiled, on an emulated GPU.
"""

import io
import json
from collections import Counter

import pytest
import torch
from rich.console import Console
from tiny_run import checkpoint_at, same_end, tiny_recipe

from fusedface.kernels import checks
from fusedface.recipes.configuration.settings import override
from fusedface.recipes.run import run_recipe
from fusedface.recipes.training import learner, optim
from fusedface.recipes.training.learner import Learner

pytest.importorskip("triton", reason="Triton is there only on Linux")
from emulated_head import emulated
from recorded_work import GraphOfWork

pytestmark = pytest.mark.usefixtures("short_networks")
LAST = 12  # step
TRITON = ("head.backend=triton", "head.precision=bfloat16")


@pytest.fixture
def train(faces, tmp_path, monkeypatch):
    """Trains `tiny_recipe` as on a GPU; gives its folder, what it said, and how often each kernel ran."""
    monkeypatch.setattr(checks, "can_be_read", lambda device: False)
    monkeypatch.setattr(optim, "_is_on_gpu", lambda tensor: True)
    made = Learner.__init__

    def run(*settings, from_graph):
        def init(self, model, head, optimizer, **options):
            for group in optimizer.param_groups:
                group["fused"] = True  # torch's own choice on a GPU
            recorder = GraphOfWork(lambda: self.changed()) if from_graph else None
            made(self, model, head, optimizer, **options | {"recorder": recorder})

        monkeypatch.setattr(Learner, "__init__", init)
        usual = ["train.precision=float32", "evaluation.every=0", "train.checkpoint_every=4"]
        recipe = override(tiny_recipe(faces), [*usual, *settings])
        out, stream = tmp_path / f"graph {from_graph}", io.StringIO()
        with emulated(80) as runs:
            run_recipe(recipe, out, device="cpu", console=Console(file=stream, width=300))
        started = Counter(run.name for run in runs)
        started["forwards that make unit class centres"] = sum(
            run.name == "margin_kernel" and run.grid[0] > 1 for run in runs
        )
        return out, stream.getvalue(), started

    return run


def figures(out):
    """Numbers of the last line of metrics that do not depend on the time."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    last = [line for line in lines if line["kind"] == "train"][-1]
    return {k: v for k, v in last.items() if isinstance(v, float) and "second" not in k}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "stages"),
    [
        (TRITON, 1),
        ((*TRITON, "schedule.loss=0.5 s=8", "train.ema=0.9", "optim.lr_head=0.2"), 2),
        (("head.backend=reference",), 1),
    ],
    ids=str,
)
def test_a_run_from_a_graph_has_the_same_bits(settings, stages, train):
    """The rate, the state of the margin, the batch and the stage of the loss change on the way."""
    plain, _, of_plain = train(*settings, from_graph=False)
    recorded, said, started = train(*settings, from_graph=True)
    assert said.count("train.cuda_graph: on; its first step differs by 0") == stages
    same_end(recorded, plain, LAST)
    assert figures(recorded) == pytest.approx(figures(plain), rel=1e-5)
    # A step that is recorded is also made by itself, and recording it runs it here.
    own_unit_rows = "forwards that make unit class centres"
    for name, count in of_plain.items():
        if name not in (
            "statistics_kernel",
            own_unit_rows,
        ):  # PyTorch's operators, where someone watches
            assert (name, started[name]) == (name, count // LAST * (LAST + 2 * stages))
    if of_plain[own_unit_rows]:  # in the first step; the others find them, from a graph too
        assert (of_plain[own_unit_rows], started[own_unit_rows]) == (1, 1)
        assert (
            started["unit_rows_kernel"] == 2 * stages
        )  # after the state before the step was put back


@pytest.mark.slow
def test_class_centres_that_are_written_between_replays(train, monkeypatch):
    """Neither a graph nor a step by itself then goes on with unit rows of the old ones."""
    learn = Learner.learn

    def writing(self, step, batch):
        if step in (2, 8, 11):
            with torch.no_grad():
                self.head.weight[::2].mul_(-0.5)
        learn(self, step, batch)

    monkeypatch.setattr(Learner, "learn", writing)
    plain, *_ = train(*TRITON, from_graph=False)
    recorded, said, started = train(*TRITON, from_graph=True)
    assert "train.cuda_graph: on; its first step differs by 0" in said
    same_end(recorded, plain, LAST)
    assert started["unit_rows_kernel"] == 2 + 2  # two of the writes come before replays


def test_a_number_of_python_stays_as_it_was(train, monkeypatch):
    """Else these tests would show nothing: a rate that no replay reads makes another run."""
    plain, *_ = train("head.backend=reference", from_graph=False)
    monkeypatch.setattr(learner, "rates_on_device", lambda optimizer, on: None)
    recorded, said, _ = train("head.backend=reference", from_graph=True)
    assert "train.cuda_graph: on; its first step differs by 0" in said
    weights = [checkpoint_at(out, LAST)["head"]["weight"] for out in (recorded, plain)]
    assert not torch.allclose(*weights, rtol=1e-3)


def test_a_step_that_reads_a_value_is_not_recorded(train, monkeypatch):
    update = Learner._update

    def reading(self):
        if self.head.weight.norm() > 0:
            update(self)

    plain, *_ = train("head.backend=reference", from_graph=False)
    monkeypatch.setattr(Learner, "_update", reading)
    recorded, said, _ = train("head.backend=reference", from_graph=True)
    assert "did not pass its check: RuntimeError: _local_scalar_dense: operation not permit" in said
    same_end(recorded, plain, LAST)
