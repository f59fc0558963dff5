"""Steps from a graph, with a recorder that repeats the call: what is copied, compared, and given up.

What a GPU would do with the recorded kernels is not tested here.
"""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from tiny_run import checkpoint_at, same_end, tiny_recipe

from fusedface.models import MarginHead, create
from fusedface.recipes.configuration.recipe import Optim
from fusedface.recipes.configuration.settings import override
from fusedface.recipes.run import run_recipe
from fusedface.recipes.training import graphed, parts
from fusedface.recipes.training.graph_choice import choose_recorder
from fusedface.recipes.training.graphed import WARM_UP
from fusedface.recipes.training.learner import Learner
from fusedface.recipes.training.optim import build_optimizer, plain_state
from fusedface.recipes.training.rates import centre_rate, rates_on_device, set_rate

pytestmark = pytest.mark.usefixtures("short_networks")


class Repeats:
    """Repeats a call into the tensors of its first result; recording changes nothing, as on a GPU."""

    def __init__(self, fault=None):
        self.fault, self.learner = fault, None
        self.warm, self.recorded, self.replayed = 0, 0, 0

    def warm_up(self, call):
        self.warm += 1
        return call()

    def record(self, call):
        self.recorded += 1
        if self.fault == "fails":
            self.learner.model.stem[0].weight.data.zero_()  # it may fail half-way
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        state = [*self.learner.changed()]
        kept = [tensor.clone() for tensor in state]
        generator = torch.get_rng_state()
        made = call()
        with torch.no_grad():
            for tensor, value in zip(state, kept, strict=True):
                tensor.copy_(value)
        torch.set_rng_state(generator)

        def replay():
            self.replayed += 1
            if self.fault == "does nothing":
                return
            for static, new in zip(made, call(), strict=True):
                static.copy_(new)

        return replay, made


def run(faces, out, recorder=None, *settings, **options):
    stream = io.StringIO()
    given = ["train.precision=float32", "evaluation.every=0", "train.checkpoint_every=4", *settings]
    recipe = override(tiny_recipe(faces), given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "choose_recorder", lambda *_, **__: recorder)
        original = Learner.__init__

        def init(self, *args, **kwargs):
            original(self, *args, **kwargs)
            if recorder is not None:
                recorder.learner = self

        patch.setattr(Learner, "__init__", init)
        run_recipe(recipe, out, device="cpu", console=Console(file=stream, width=300), **options)
    return stream.getvalue()


def same(out, other):
    same_end(out, other, 12)
    ours, theirs = checkpoint_at(out, 12), checkpoint_at(other, 12)
    groups = [end["optimizer"]["param_groups"] for end in (ours, theirs)]
    assert [type(group["lr"]) for group in groups[0]] == [float] * len(groups[0])
    lines = [(path / "metrics.jsonl").read_text("utf-8").splitlines()[-2] for path in (out, other)]
    assert lines[0].partition('"images_per')[0] == lines[1].partition('"images_per')[0]


@pytest.mark.parametrize(
    ("settings", "stages"),
    [
        ((), 1),
        (("train.ema=0.9", "optim.lr_head=0.2"), 1),
        (("schedule.loss=0.5 s=8",), 2),
    ],
    ids=str,
)
def test_a_recorded_run_is_the_same(faces, tmp_path, settings, stages):
    """Rates, batches and margins change from step to step; a stage of the loss is recorded anew."""
    run(faces, tmp_path / "plain", None, *settings)
    recorder = Repeats()
    said = run(faces, tmp_path / "graph", recorder, *settings)
    same(tmp_path / "graph", tmp_path / "plain")
    assert said.count("train.cuda_graph: on; its first step differs by 0") == stages
    assert (recorder.warm, recorder.recorded) == (WARM_UP * stages, stages)
    assert recorder.replayed == 12 - WARM_UP * stages


def test_a_recorded_run_goes_on_to_the_same_bits(faces, tmp_path):
    run(faces, tmp_path / "plain")
    out = tmp_path / "graph"
    run(faces, out, Repeats())
    for path in ("checkpoints/step-00000012.pt", "checkpoints/best.pt", "summary.json"):
        (out / path).unlink()
    run(faces, out, Repeats(), resume=True)
    same(out, tmp_path / "plain")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("fails", "RuntimeError: operation not permitted when stream is capturing"),
        ("does nothing", "what it changes differs by 1 of its length"),
    ],
)
def test_a_step_that_is_not_recorded_right_is_not_used(faces, tmp_path, fault, said):
    run(faces, tmp_path / "plain")
    recorder = Repeats(fault)
    text = run(faces, tmp_path / "graph", recorder)
    assert f"train.cuda_graph: off, the recorded step did not pass its check: {said}" in text
    assert recorder.recorded == 1
    same(tmp_path / "graph", tmp_path / "plain")


def test_too_little_memory_for_the_check_is_no_end(faces, tmp_path, monkeypatch):
    run(faces, tmp_path / "plain")

    def full(*_args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(graphed, "Before", full)
    text = run(faces, tmp_path / "graph", Repeats())
    assert (
        "train.cuda_graph: off, the recorded step did not pass its check: OutOfMemoryError" in text
    )
    same(tmp_path / "graph", tmp_path / "plain")


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_rates_move_to_the_device_and_back(kind):
    model = create("mobilefacenet", embedding_dim=8, input_size=(32, 32), width=0.25)
    head = MarginHead(8, 5)
    optimizer = build_optimizer(model, head, Optim(kind=kind, lr=0.1, lr_head=0.4))
    head.weight.grad = torch.ones_like(head.weight)
    optimizer.step()
    rates_on_device(optimizer, on=True)
    held = [group["lr"] for group in optimizer.param_groups]
    set_rate(optimizer, 0.05)
    assert centre_rate(optimizer)[0] == pytest.approx(0.2)
    for rate, group in zip(held, optimizer.param_groups, strict=True):
        assert rate is group["lr"]  # a graph reads this very tensor
        assert rate.item() == pytest.approx(0.05 * group["lr_factor"])
        assert group.get("capturable", True)
    assert all(type(group["lr"]) is float for group in plain_state(optimizer)["param_groups"])
    rates_on_device(optimizer, on=False)
    assert [type(group["lr"]) for group in optimizer.param_groups] == [float] * len(held)
    assert not any(group.get("capturable") for group in optimizer.param_groups)
    optimizer.step()


def test_what_is_not_recorded(faces):
    recipe = tiny_recipe(faces)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_recorder(recipe, cpu, 1, is_scaled=False) is None
    asked = override(recipe, ["train.cuda_graph=on"])
    with pytest.raises(ValueError, match=r"train\.cuda_graph must be off or auto here: it needs a"):
        choose_recorder(asked, cpu, 1, is_scaled=False)
    parted = replace(asked, optim=replace(asked.optim, accumulate=2))
    with pytest.raises(ValueError, match=r"here: several processes, optim\.accumulate, float16$"):
        choose_recorder(parted, gpu, 2, is_scaled=True)
    assert (
        choose_recorder(override(parted, ["train.cuda_graph=auto"]), gpu, 1, is_scaled=False)
        is None
    )
