"""The steps of a run as the benchmark makes them: they train, in the way that is asked for."""

import pytest
import torch

from fusedface.bench import trained_step
from fusedface.bench.training_steps import Setup

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
