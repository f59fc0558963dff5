"""A training step on tensors without data: the host reads nothing, and copies nothing to the device.

What cannot be computed without values on the `meta` device is what would wait for a GPU.
"""

import contextlib
import io
from functools import partial

import pytest
import torch
from functorch.compile import make_boxed_func
from meta_step import META, a_batch, learner
from rich.console import Console
from small_models import shortened
from tiny_run import tiny_recipe, write_faces
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode
from waiting import Watch, reads

from fusedface.kernels import checks
from fusedface.models import mobilefacenet
from fusedface.recipes.configuration.settings import override
from fusedface.recipes.run import run_recipe
from fusedface.recipes.training import compiled
from fusedface.recipes.training.trainer import Trainer

pytest.importorskip("triton", reason="Triton is there only on Linux")


class Copies(TorchDispatchMode):
    """Records values that are read, operators whose shape depends on values, and copies between devices."""

    def __init__(self):
        super().__init__()
        self.waiting = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        out = func(*args, **(kwargs or {}))
        tensors = [value for value in (*args, out) if isinstance(value, torch.Tensor)]
        crosses = (
            len({tensor.device for tensor in tensors if tensor.ndim or name == "_to_copy"}) > 1
        )
        if reads(name, args) or crosses:
            self.waiting.append(name)
        return out


@pytest.fixture
def _no_autocast(monkeypatch):
    """It knows no `meta` device."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())


@pytest.mark.parametrize(
    "settings",
    [{}, {"ema": 0.9}, {"freeze": 5}, {"channels_last": False}, {"optim": {"clip_norm": 0.0}}],
    ids=str,
)
@pytest.mark.usefixtures("_no_autocast")
def test_a_step_never_waits(settings):
    trained = learner(**settings)
    batch = a_batch()
    trained.prepare(0)
    trained.learn(0, batch)  # constants are copied to the device once, in the first step
    on_device = batch.to(META)  # the one copy of a step, which the host does not wait for
    with Watch() as watch, Copies() as copies:
        trained.learn(1, on_device)
    assert watch.waiting == []
    assert copies.waiting == []
    assert len(trained.meter.rows) == 2


@pytest.mark.usefixtures("_no_autocast")
def test_backbone_and_head_are_one_graph(monkeypatch):
    """On a GPU torch.compile gets everything from pixels to the loss, without a break."""
    graphs = []

    def compiler(graph, _inputs):
        graphs.append(graph.code)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=compiler, bw_compiler=compiler)
    compile_whole = partial(torch.compile, backend=backend, fullgraph=True)
    monkeypatch.setattr(compiled.torch, "compile", compile_whole)
    monkeypatch.setattr(
        mobilefacenet,
        "BOTTLENECKS",
        ((2, 64, 1, 2), (4, 128, 1, 2), (2, 128, 1, 2)),
    )
    trained = learner()
    passes = trained.passes
    passes.compile(on=True)
    trained.prepare(0)
    for _ in range(2):
        passes(a_batch(), is_frozen=False)
    forward, backward = graphs
    assert "fusedface.margin_loss" in forward
    assert "convolution" in forward
    assert "fusedface.margin_loss_backward" in backward
    assert "convolution_backward" in backward


def test_a_run_reads_once_for_each_line_of_metrics(tmp_path, monkeypatch):
    """All steps of a run, with what follows them, where reading a value would wait."""
    shortened(monkeypatch)
    reads, step_of, after = {}, Trainer._train_step, Trainer._after_step

    def counted(part):
        def run(trainer, *args):
            with Copies() as copies:
                result = part(trainer, *args)
            reads.setdefault(trainer.progress.step, []).append(len(copies.waiting))
            return result

        return run

    monkeypatch.setattr(checks, "can_be_read", lambda device: False)
    monkeypatch.setattr(Trainer, "_train_step", counted(step_of))
    monkeypatch.setattr(Trainer, "_after_step", counted(after))
    given = [
        "schedule.steps=7",
        "train.log_every=3",
        "train.checkpoint_every=7",
        "evaluation.every=0",
    ]
    recipe = override(tiny_recipe(write_faces(tmp_path)), [*given, "head.backend=reference"])
    run_recipe(recipe, tmp_path / "run", device="cpu", console=Console(file=io.StringIO()))
    assert len(reads) == 7
    assert {step for step, (in_step, _) in reads.items() if in_step} == set()
    assert {step for step, (_, later) in reads.items() if later} == {3, 6, 7}  # 7: the end, saved


def test_what_waits_is_found():
    with Watch() as watch, Copies() as copies:
        torch.ones(3).sum().item()
        torch.ones(3).to("meta")
    assert watch.waiting == ["item"]
    assert copies.waiting == ["_local_scalar_dense", "_to_copy"]
