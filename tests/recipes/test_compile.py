"""A compiled step: when it is used, what its check finds, and how a run goes on.

Most runs here compile to the same operators ("aot_eager"), which takes a second; one has Inductor.
"""

import contextlib
import io
from dataclasses import replace
from functools import partial

import pytest
import torch
from rich.console import Console
from tiny_run import checkpoint_at, same_end, tiny_recipe
from torch import nn

from fusedface.models import MODELS, Backbone
from fusedface.models.prelu import PReLU
from fusedface.recipes.configuration.recipe import BackboneOptions
from fusedface.recipes.configuration.settings import override
from fusedface.recipes.run import run_recipe
from fusedface.recipes.training import compiled
from fusedface.recipes.training.compile_choice import choose
from fusedface.recipes.training.compiled import Compiled
from fusedface.recipes.training.compiling import Compiling
from fusedface.recipes.training.precision import Precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MINUTE = 60 * 6_500_000_000  # multiply-adds on one thread


def chosen(
    setting="auto", device=CPU, dtype=torch.bfloat16, macs=0, threads=1, processes=1, **more
):
    return choose(
        setting,
        precision=Precision(device, dtype),
        num_processes=processes,
        changes_in_pass=more.get("changes_in_pass", False),
        num_macs=lambda: macs,
        num_threads=threads,
        has_loops=lambda: more.get("loops", False),
    )


def test_when_steps_are_compiled():
    assert not chosen("off", GPU).on
    assert chosen("on").on
    assert chosen(device=GPU).on
    assert chosen(macs=6 * MINUTE).on
    assert not chosen(macs=5 * MINUTE).on
    assert "about 5 minutes" in chosen(macs=5 * MINUTE).why
    assert not chosen(macs=6 * MINUTE, threads=2).on
    assert not chosen(macs=1000 * MINUTE, loops=True).on
    for obstacle in ({"processes": 2}, {"changes_in_pass": True}):
        assert not chosen(device=GPU, **obstacle).on
        with pytest.raises(ValueError, match=r"train\.compile must be off or auto here"):
            chosen("on", **obstacle)


def test_another_shape_runs_as_it_is(monkeypatch):
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    network = Compiled(nn.Linear(3, 2))
    for rows in (4, 7, 4, 5):
        assert network(torch.ones(rows, 3)).shape == (rows, 2)
    assert len(graphs) == 1


class Small(Backbone):
    """As quick to compile as a backbone with batch normalisation can be."""

    name = "small"

    def __init__(self, embedding_dim=16, input_size=(32, 32), width=1.0):
        super().__init__(embedding_dim, input_size, width)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 8, stride=8, bias=False), nn.BatchNorm2d(8), PReLU(8), nn.Flatten()
        )
        self.embedding = nn.Sequential(nn.Linear(128, embedding_dim), nn.BatchNorm1d(embedding_dim))

    def features(self, images):
        return self.layers(images)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setitem(MODELS, "small", Small)


@pytest.fixture
def _quick(monkeypatch):
    monkeypatch.setattr(
        compiled.torch, "compile", partial(torch.compile, backend="aot_eager"), raising=True
    )
    yield
    torch.compiler.reset()


def run(faces, out, *settings, **options):
    stream = io.StringIO()
    given = ["schedule.steps=4", "train.checkpoint_every=2", "train.precision=float32", *settings]
    recipe = override(tiny_recipe(faces), [*given, "evaluation.every=0"])
    recipe = replace(
        recipe, backbone=BackboneOptions(name="small", embedding_dim=16, input_size=(32, 32))
    )
    run_recipe(recipe, out, device="cpu", console=Console(file=stream, width=300), **options)
    return stream.getvalue()


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    "settings", [(), ("train.freeze=1", "train.ema=0.9"), ("optim.accumulate=2",)], ids=str
)
def test_a_compiled_run_learns_the_same_and_goes_on_to_the_same_bits(faces, tmp_path, settings):
    said = run(faces, tmp_path / "on", "train.compile=on", *settings)
    assert said.count("train.compile: on, as set") == 1
    assert checkpoint_at(tmp_path / "on", 4)["progress"]["compiled"] is True
    run(faces, tmp_path / "off", "train.compile=off", *settings)
    for name, value in checkpoint_at(tmp_path / "off", 4)["model"].items():
        found = checkpoint_at(tmp_path / "on", 4)["model"][name]
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-3, msg=name)
    part = tmp_path / "part"
    run(faces, part, "train.compile=on", *settings)
    for path in ("checkpoints/step-00000004.pt", "checkpoints/best.pt", "summary.json"):
        (part / path).unlink()
    torch.compiler.reset()
    run(faces, part, "train.compile=on", *settings, resume=True)
    same_end(part, tmp_path / "on", 4)


@pytest.mark.usefixtures("_quick")
def test_auto_goes_on_as_the_run_began(faces, tmp_path, monkeypatch):
    """What it would decide today does not matter: bits would change in the middle of a run."""
    said = run(faces, tmp_path / "run", "train.compile=auto")
    assert said.count("train.compile=auto: off, the run trains for about 0 minutes") == 1
    run(faces, tmp_path / "whole", "train.compile=auto")
    for path in ("checkpoints/step-00000004.pt", "checkpoints/best.pt", "summary.json"):
        (tmp_path / "run" / path).unlink()
    from fusedface.recipes.training import parts

    yes = chosen(device=GPU)
    assert yes.on
    monkeypatch.setattr(parts, "choose", lambda *_args, **_more: yes)
    said = run(faces, tmp_path / "run", "train.compile=auto", resume=True)
    assert "train.compile=auto: off, as the run began" in said
    same_end(tmp_path / "run", tmp_path / "whole", 4)


@pytest.mark.usefixtures("_quick")
def test_a_change_of_settings_does_not_forget_how_the_run_began(faces, tmp_path):
    """The change is saved before the first step, when nothing has been compiled yet."""
    out = tmp_path / "run"
    run(faces, out, "train.compile=auto")
    for path in ("checkpoints/step-00000004.pt", "checkpoints/best.pt", "summary.json"):
        (out / path).unlink()
    assert checkpoint_at(out, 2)["progress"]["compiled"] is False
    run(faces, out, "train.log_every=1", resume=True, allow_change=["train.log_every"])
    assert checkpoint_at(out, 2)["progress"]["recipe_changes"]
    assert checkpoint_at(out, 2)["progress"]["compiled"] is False


class FakePasses:
    """Gives the only weight the next gradient of a list."""

    first_non_finite = None

    def __init__(self, weight, gradients):
        self.weight, self.gradients, self.compiled = weight, iter(gradients), []

    def __call__(self, _batch, *, is_frozen):
        self.weight.grad = torch.full_like(self.weight, next(self.gradients))
        return self.weight.grad

    def compile(self, *, on):
        self.compiled.append(on)

    def forget_gradients(self):
        pass


def compiling(choice, gradients):
    model, notes = nn.Linear(1, 1, bias=False), []
    passes = FakePasses(model.weight, gradients)
    head = nn.Identity()
    return Compiling(passes, model, head, choice, torch.float32, notes.append), passes, notes


def made(steps, passes):
    """The next step, as a learner makes it."""
    return steps.trial(None) if steps.is_due() else passes(None, is_frozen=False)


def test_a_step_that_overflows_is_no_check():
    """A scaled loss has infinite gradients at first; the step counts, and the next one is tried."""
    steps, passes, notes = compiling(chosen("on"), [float("inf"), 2.0, 2.0, 3.0])
    assert made(steps, passes).item() == float("inf")
    assert passes.weight.grad.item() == float("inf")  # a scaler has to see it
    assert (steps.is_on, passes.compiled, notes) == (None, [], [])
    made(steps, passes)
    assert (steps.is_on, passes.compiled) == (True, [True])
    assert made(steps, passes).item() == 3.0


def test_a_compiled_run_that_goes_on_where_nothing_can_be_compiled():
    """Such as on several processes, or it would be tried on some of them and not on others."""
    steps, passes, notes = compiling(chosen(device=GPU, processes=2), [1.0])
    steps.go_on(is_on=True)
    made(steps, passes)
    assert (steps.is_on, passes.compiled) == (False, [])
    assert "several processes" in notes[0]


class Broken:
    """Compiles to something else."""

    def __init__(self, what):
        self.what = what

    def __call__(self, function, **_options):
        if self.what == "raises":
            raise RuntimeError("no compiler here\nand more")
        if self.what == "raises late":
            return self._raises
        return lambda *inputs: function(*inputs).flip(1)

    def _raises(self, *_inputs):
        torch.rand(3)  # the generator must be set back too
        raise ValueError("no kernel")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raises", "RuntimeError: no compiler here"),
        ("raises late", "ValueError: no kernel"),
        ("differs", "its gradient differs by"),
    ],
)
def test_a_step_that_does_not_compile_right_is_not_used(faces, tmp_path, monkeypatch, what, said):
    run(faces, tmp_path / "off", "train.compile=off")
    monkeypatch.setattr(compiled.torch, "compile", Broken(what))
    text = run(faces, tmp_path / "on", "train.compile=on")
    assert f"train.compile: off, the compiled step did not pass its check: {said}" in text
    assert checkpoint_at(tmp_path / "on", 4)["progress"]["compiled"] is False
    same_end(tmp_path / "on", tmp_path / "off", 4)


@pytest.mark.usefixtures("_quick")
def test_a_check_that_failed_is_remembered(faces, tmp_path, monkeypatch):
    """It could pass on another day, and then the run would go on with other bits."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    with monkeypatch.context() as patch:
        patch.setattr(compiled.torch, "compile", Broken("raises"))
        for path in (out, whole):
            run(faces, path, "train.compile=on")
    for path in ("checkpoints/step-00000004.pt", "checkpoints/best.pt", "summary.json"):
        (out / path).unlink()
    said = run(faces, out, "train.compile=on", resume=True)
    assert said.count("train.compile: off, the compiled step did not pass its check before") == 1
    assert "train.compile: on" not in said
    same_end(out, whole, 4)


@pytest.mark.usefixtures("_quick")
def test_on_is_tried_where_it_is_a_new_setting(faces, tmp_path):
    out = tmp_path / "run"
    run(faces, out, "train.compile=off")
    for path in ("checkpoints/step-00000004.pt", "checkpoints/best.pt", "summary.json"):
        (out / path).unlink()
    said = run(faces, out, "train.compile=on", resume=True, allow_change=["train.compile"])
    assert said.count("train.compile: on, as set") == 1
    assert checkpoint_at(out, 4)["progress"]["compiled"] is True


@pytest.mark.slow
def test_inductor_computes_the_same_step(faces, tmp_path):
    """With its real compiler, on a network of a few layers."""
    with contextlib.suppress(ImportError):
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:
            pytest.skip(f"Inductor has no compiler here: {error}")
    said = run(faces, tmp_path / "on", "train.compile=on", "schedule.steps=3")
    assert "train.compile: on, as set (compiled in" in said
    run(faces, tmp_path / "off", "train.compile=off", "schedule.steps=3")
    for name, value in checkpoint_at(tmp_path / "off", 3)["model"].items():
        found = checkpoint_at(tmp_path / "on", 3)["model"][name]
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-3, msg=name)
