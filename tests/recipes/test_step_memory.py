"""Memory of a whole training step as on a GPU, counted on tensors without data."""

import contextlib

import pytest
import torch
from live_memory import LiveMemory
from meta_step import META, a_batch, learner

from fusedface.recipes.training import optim, rehearsal

triton = pytest.importorskip("triton", reason="Triton is there only on Linux")
from fusedface.kernels.gpu import arguments  # noqa: E402


@pytest.fixture
def _as_on_a_gpu(monkeypatch):
    """The class centres are updated by the kernel; no kernel is compiled or started."""
    monkeypatch.setattr(arguments, "INTERPRETED", True)
    monkeypatch.setattr(optim, "_is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(triton.JITFunction, "run", lambda *args, **options: None)
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())


def peak(num_rows, num_classes, dim, **settings):
    """Bytes of the second step, beyond weights and momentum."""
    trained = learner(num_rows, num_classes, dim, **settings)
    trained.prepare(0)
    batch = a_batch(num_rows).to(META)
    trained.learn(0, batch)
    trained.optimizer.zero_grad(set_to_none=True)
    with LiveMemory() as memory:
        trained.learn(1, batch)
    return memory.peak


@pytest.mark.parametrize(
    ("num_rows", "dim", "settings"), [(8, 128, {}), (256, 128, {"ema": 0.9}), (8, 512, {})]
)
@pytest.mark.usefixtures("_as_on_a_gpu", "short_networks")
def test_a_class_takes_its_gradient_and_its_unit_row(num_rows, dim, settings):
    """In float32, and in bfloat16 with the inverse length, whatever the size of the batch."""
    some, more = (peak(num_rows, num, dim, **settings) for num in (200_000, 400_000))
    assert (more - some) / 200_000 == pytest.approx(4 * dim + 2 * dim + 4, abs=0.5)


def test_a_rehearsal_takes_two_copies_of_what_a_step_changes():
    """One of before and one of the step by itself; they are compared in slices."""
    state = [torch.zeros(2 * rehearsal.SLICE + 7), torch.zeros(3, dtype=torch.int64)]
    num_bytes = state[0].nbytes
    with LiveMemory() as memory:
        before = rehearsal.Before(state, state[0].device)
        state[0][:2], state[1][:] = 5.0, 7
        expected = [tensor.clone() for tensor in state]
        state[0][-1] = 12.0
        apart = before.difference(state, expected)
        assert apart == pytest.approx(12 / 50**0.5)
        assert rehearsal.difference(state[:1], expected[:1]) == apart
    assert memory.peak < 3 * num_bytes + 9 * 8 * rehearsal.SLICE  # `state` itself is counted, too
    before.restore()
    assert not any(tensor.any() for tensor in state)


def test_the_peak_is_what_is_alive_at_once():
    with LiveMemory() as memory:
        x = torch.empty(1000, device=META)
        y = x * 2
        del x
        z = torch.empty(500, device=META)
        del y, z
        torch.empty(1999, device=META)
    assert memory.peak == 8000
