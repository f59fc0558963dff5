"""The training step, the sources and the short training as the benchmark runs them."""

import numpy as np
import pytest
import torch

from fusedface.bench import convergence, data, step, training_steps
from fusedface.bench.training_steps import HEADS, Setup, TrainingSteps
from fusedface.data import SyntheticFaces
from fusedface.recipes.training.precision import Precision

CPU = torch.device("cpu")
TINY = Setup("mobilefacenet", num_rows=4, num_classes=10, size=32)


def test_a_step_in_parts_trains_as_a_plain_one_does():
    """Cutting the graph between backbone and head must not change what is learnt."""
    steps = TrainingSteps(TINY, CPU)
    steps.precision = Precision(CPU, torch.float32)
    plain = TrainingSteps(TINY, CPU)
    batch = next(plain.batches)
    inputs = plain.model.preprocessing.images_to_tensor(batch.seen())
    plain.head(plain.model(inputs), batch.labels).loss.backward()
    torch.nn.utils.clip_grad_norm_(plain.model.parameters(), plain.optim.clip_norm)
    plain.optimizer.step()
    seconds = steps.timed(steps.heads["fused"])
    assert set(seconds) == {*step.PARTS, "step"}
    assert seconds["step"] == pytest.approx(sum(seconds[part] for part in step.PARTS))
    for one, other in zip(steps.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(steps.head.weight, plain.head.weight)
    assert steps.head.t == plain.head.t != 0


def test_both_heads_compute_the_same_and_carry_t_on():
    steps = TrainingSteps(TINY, CPU)
    embeddings, labels = torch.randn(4, 128), torch.tensor([0, 3, 3, 9])
    losses, ts = [], []
    for head in HEADS:
        steps.head.get_buffer("t").fill_(0.5)
        losses.append(steps.heads[head](embeddings, labels).item())
        ts.append(steps.head.get_buffer("t").item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert ts[0] == pytest.approx(ts[1], rel=1e-6)
    assert ts[0] < 0.5


def test_rows_of_a_step_add_up(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model, **_: compiled.append(model) or model)
    rows = step.run(TINY, CPU, rounds=2, compiled=True)
    heads = ["fused", "eager", step.TORCHS_LAYERS, step.COMPILED]
    assert [row["head"] for row in rows] == heads
    assert rows[0]["time_over_fused"] == (1, 1, 1)
    assert len(compiled) == 1
    for row in rows:
        low, mid, high = row["images_per_second"]
        assert 0 < low <= mid <= high
        assert row["head_share"] == pytest.approx(row["ms"]["head"] / sum(row["ms"].values()))


def test_a_short_training_learns_the_same_with_both_heads(monkeypatch):
    """In float32: three steps on four images turn the rounding of bfloat16 into several percent."""
    monkeypatch.setattr(
        training_steps, "pick_precision", lambda _, device: Precision(device, torch.float32)
    )
    rows = convergence.run(convergence.Training(TINY, num_steps=3, lr=0.01), CPU)
    fused, eager = (np.array(row["losses"]) for row in rows)
    assert len(fused) == 3
    np.testing.assert_allclose(fused, eager, rtol=1e-3)
    assert all(0.3 < row["accuracy"] <= 1.0 for row in rows)
    assert rows[0]["last_loss"] == pytest.approx(fused.mean(), abs=1e-3)


def test_both_heads_train_on_faces_that_are_rendered_once(monkeypatch):
    rendered, render = [], SyntheticFaces._render_all

    def noting(self, indices):
        rendered.append(len(indices))
        return render(self, indices)

    monkeypatch.setattr(SyntheticFaces, "_render_all", noting)
    training_steps._rendered.cache_clear()
    TrainingSteps(TINY, CPU)
    by_first = sum(rendered)
    TrainingSteps(TINY, CPU)
    assert sum(rendered) == by_first >= TINY.num_rows * training_steps.BATCHES_AN_EPOCH


def test_every_source_is_timed_and_what_cannot_run_says_why(monkeypatch):
    def without(preset, size):
        raise ValueError("albumentations is not installed: pip install albumentations\nand more")

    rows = data.run(8, rounds=1, presets=("flip",))
    assert [row["source"] for row in rows] == [
        "generated, rendered anew", "generated, kept", "folder of JPEG", "list of JPEG", "a batch on cpu",
    ]  # fmt: skip
    assert all(row["images_per_second"][1] > 0 for row in rows)
    monkeypatch.setattr("fusedface.data.dataset._augment", without)
    rows = data.run(8, rounds=1, presets=("strong",))
    assert rows[1]["images_per_second"] is None
    assert rows[1]["note"] == "albumentations is not installed: pip install albumentations"
