"""Statistics of a whole loss: computed when they are read, and not before."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from margin_oracle import all_margins, inputs, matched_state
from torch.utils._python_dispatch import TorchDispatchMode

from fusedface.kernels import MarginOutput, functional, margin_loss
from fusedface.kernels.gpu import loss, memory, whole

MARGINS = ("curricularface", "arcface")


def names(started):
    return [name for name, _ in started]


def step(name):
    embeddings, weight, labels = inputs(9, 70, 16)
    labels[4] = -1
    margin = all_margins()[name]
    x, w = embeddings.requires_grad_(), weight.requires_grad_()
    state = matched_state(margin, embeddings)
    out = margin_loss(x, w, labels, margin, state=state, backend="triton", precision="float32")
    out.loss.backward()
    return out, x.grad, w.grad


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch):
    """Where the values of a batch are not read back."""
    from fusedface.kernels import checks

    monkeypatch.setattr(checks, "can_be_read", lambda device: False)


@pytest.mark.parametrize("name", MARGINS)
def test_a_step_that_reads_none_computes_none(name, started):
    """Except the first, which loads their kernel for a CUDA graph."""
    step(name)
    started.clear()
    out, _, _ = step(name)
    assert out.target_cosine.isnan().sum() == 1
    assert "statistics_kernel" not in names(started)
    assert out.hard_negatives.dtype == torch.int64
    assert out.correct.dtype == torch.bool
    assert out.modulation.max is out.modulation[2]
    assert names(started).count("statistics_kernel") == 1


@pytest.mark.parametrize("name", MARGINS)
def test_as_torch_computes_them(name, monkeypatch):
    """As a compiled step has them, and in a CUDA graph, at once."""
    out, _, _ = step(name)
    monkeypatch.setattr(loss, "_is_plain", lambda tensor: False)
    expected, _, _ = step(name)
    for field in MarginOutput._fields:
        torch.testing.assert_close(getattr(out, field), getattr(expected, field), equal_nan=True)


def test_an_output_is_a_tuple_all_the_same(started):
    out, _, _ = step("curricularface")
    assert isinstance(out, MarginOutput)
    (loss_, per_sample, *_, state), copied = out, copy.copy(out)
    assert loss_ is out.loss
    assert per_sample is out[1] is out.per_sample_loss
    assert state is out.state is copied.state is out._asdict()["state"]
    assert out._replace(loss=None).correct is out.correct
    assert repr(out).startswith("MarginOutput(loss=")
    detached = out._replace(loss=out.loss.detach(), per_sample_loss=per_sample.detach())
    assert torch.equal(pickle.loads(pickle.dumps(detached)).correct, out.correct)
    assert names(started).count("statistics_kernel") == 1


def test_in_a_cuda_graph_they_are_computed_at_once(started, monkeypatch):
    """A replay fills the memory of the captured step: what is read after it must be the graph's."""
    monkeypatch.setattr(functional, "_is_recorded", lambda device: True)
    out, _, _ = step("arcface")
    assert type(out) is MarginOutput
    assert "statistics_kernel" in names(started)


def test_an_output_does_not_hold_the_memory_of_a_step():
    made = []
    forward = whole.forward

    def watched(*args):
        results = forward(*args)
        made.extend(weakref.ref(result) for result in results)
        return results

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "work", loss.work._replace(forward=watched))
        out, _, _ = step("curricularface")
    out = out._replace(loss=out.loss.detach(), per_sample_loss=out.per_sample_loss.detach())
    gc.collect()
    assert out.correct is not None
    alive = sum(made_() is not None for made_ in made)
    assert alive <= 4  # cosines and statistics of B rows, and what they come from


class Passing(TorchDispatchMode):
    """Somebody who counts operators."""

    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.called.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", MARGINS)
def test_with_and_without_the_dispatcher(name):
    """The same bits, and who watches sees our operators."""
    out, *grads = step(name)
    with Passing() as passing:
        watched, *others = step(name)
    assert {"margin_loss", "margin_loss_backward"} <= set(passing.called)
    assert torch.equal(out.per_sample_loss, watched.per_sample_loss)
    assert all(map(torch.equal, grads, others))
    assert torch.equal(out.hard_negatives, watched.hard_negatives)


def test_the_kernel_of_statistics_alone():
    stats = torch.tensor([[0.1, 0.9], [3.0, 0.0], [0.5, torch.inf], [2.0, -torch.inf], [4.5, 0.0]])
    rows = torch.zeros(memory.num_of_rows(2, keep=False))
    memory.rows_of(rows, 2, keep=False).stats.copy_(stats)
    modulation, num_hard, correct = whole.statistics(rows, torch.tensor([0.2, 0.3]), keep=False)
    assert modulation.tolist() == [0.5, 1.5, 2.0]
    assert num_hard.tolist() == [3, 0]
    assert correct.tolist() == [True, False]
