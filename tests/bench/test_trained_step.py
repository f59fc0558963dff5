"""The steps of a run as the benchmark makes them: they train, in the way that is asked for."""

import pytest
import torch

from fusedface.bench import trained_step
from fusedface.bench.training_steps import Setup
from fusedface.data import SyntheticFaces

CPU, TINY = torch.device("cpu"), Setup("mobilefacenet", num_rows=4, num_classes=10, size=32)


def test_steps_train_and_are_counted(monkeypatch):
    monkeypatch.setattr(trained_step, "STEPS", 2)
    seen = []
    rows = trained_step.run(TINY, CPU, 2, ["eager"], on_rows=lambda rows: seen.append(len(rows)))
    (row,) = rows
    low, mid, high = row["images_per_second"]
    assert 0 < low <= mid <= high
    assert seen == [1]
    assert (row["way"], row["num_rows"], row["num_classes"]) == ("eager", 4, 10)


def test_a_step_changes_backbone_and_class_centres():
    steps = trained_step._Steps(TINY, CPU, "off", "off")
    learner = steps._learner
    before = [
        tensor.detach().clone() for tensor in (learner.head.weight, *learner.model.parameters())
    ]
    steps._make(1)
    after = (learner.head.weight, *learner.model.parameters())
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed[0]
    assert sum(changed) > len(changed) // 2
    assert steps._num_made == trained_step.WARM + 1


def test_a_cpu_has_no_graphs():
    assert trained_step.ways(CPU, compiled=True) == ["eager", "compiled"]
    assert trained_step.ways(CPU, compiled=False) == ["eager"]
    cuda = torch.device("cuda")
    assert trained_step.ways(cuda, compiled=True) == list(trained_step.WAYS)
    assert trained_step.ways(cuda, compiled=False) == ["eager", "CUDA graph"]
    with pytest.raises(ValueError, match="cuda_graph must be off or auto"):
        trained_step._Steps(TINY, CPU, *trained_step.WAYS["CUDA graph"])


def test_no_face_is_rendered_for_it(monkeypatch):
    """Those of four batches of 512 took longer than the suite on a GPU has for all its steps."""

    def render(self, indices):
        raise AssertionError("a face is rendered")

    monkeypatch.setattr(SyntheticFaces, "render", render)
    setup = Setup("mobilefacenet", num_rows=4, num_classes=10, size=32)
    batches = trained_step.noise(setup, CPU)
    assert len(batches) == trained_step.NUM_BATCHES
    for batch in batches:
        assert (batch.images.shape, batch.images.dtype) == ((4, 32, 32, 3), torch.uint8)
        assert (batch.labels.dtype, batch.mirrored.dtype) == (torch.int64, torch.bool)
        assert 0 <= batch.labels.min() <= batch.labels.max() < 10
    trained_step._Steps(TINY, CPU, "off", "off")
