"""Unit rows of class centres that steps captured by a CUDA graph leave: which hold, and in what memory."""

import contextlib

import pytest
import torch
from centre_steps import DIM, are_those_of, centres, step_of, with_gradient

from fusedface.kernels import CentreSGD
from fusedface.kernels.gpu import centre_step, class_centres, launch


def test_graphs_that_are_captured_neither_read_nor_keep(monkeypatch):
    """A replay writes class centres without counting."""
    weight = centres()
    class_centres.follow(weight)
    class_centres.unit_rows(weight, "float32", training=True)
    with_gradient(weight, 1)
    step_of(weight)
    with monkeypatch.context() as patch:
        patch.setattr(launch, "is_capturing", lambda device: True)
        assert class_centres.unit_rows(weight, "float32", training=True) is None
    assert class_centres.unit_rows(weight, "float32", training=True) is not None
    with monkeypatch.context() as patch:
        patch.setattr(launch, "is_capturing", lambda device: True)
        step_of(weight)
    step_of(weight)
    assert class_centres.unit_rows(weight, "float32", training=True) is None


@pytest.fixture
def kept_in_graphs(monkeypatch, started):
    """Class centres after a step that left unit rows; what captures; the kernels that were started."""
    weight = centres()
    class_centres.follow(weight)
    class_centres.keep_in_graphs(weight)
    class_centres.unit_rows(weight, "float32", training=True)
    with_gradient(weight, 1)
    step_of(weight)
    started.clear()

    @contextlib.contextmanager
    def capture():
        with monkeypatch.context() as patch:
            patch.setattr(launch, "is_capturing", lambda device: True)
            yield

    return weight, capture, started


def test_graphs_keep_unit_rows_in_the_same_memory(kept_in_graphs):
    """Whoever writes the class centres, and whoever drops the unit rows: a graph has their addresses."""
    weight, capture, started = kept_in_graphs
    with capture():
        kept = class_centres.unit_rows(weight, "float32", training=True)
        step_of(weight)
    centre_step.refresh(weight)  # as a step and as a replay leave them
    assert [name for name, _ in started] == ["sgd_kernel"]
    writes = [
        lambda: step_of(weight),
        lambda: weight.mul_(-2.0),
        lambda: class_centres.forget(weight),
        lambda: step_of(weight),
    ]
    for write in writes:
        with torch.no_grad():
            write()
        centre_step.refresh(weight)
        assert class_centres.unit_rows(weight, "float32", training=False) is kept
        assert are_those_of(weight, kept)
    made = [name for name, _ in started].count("unit_rows_kernel")
    assert made - len(writes) == 2  # and one in each comparison


def test_a_captured_step_writes_to_memory_that_was_there_before(kept_in_graphs):
    """Memory that is allocated during a capture belongs to the graph; the earlier one outlives `forget`."""
    weight, capture, _ = kept_in_graphs
    kept = class_centres.unit_rows(weight, "float32", training=True)
    class_centres.forget(weight)
    with capture():
        step_of(weight)
    class_centres.unit_rows(weight, "float16", training=True)  # eager steps of another precision
    step_of(weight)
    centre_step.refresh(weight)
    assert class_centres.unit_rows(weight, "float32", training=False) is kept
    assert are_those_of(weight, kept)


@pytest.mark.parametrize("is_captured", [False, True])
def test_class_centres_of_another_number_do_not_take_the_old_memory(kept_in_graphs, is_captured):
    weight, capture, _ = kept_in_graphs
    if is_captured:
        with capture():
            step_of(weight)
    weight.data = torch.randn(300, DIM)
    weight.grad = torch.ones(300, DIM)
    centre_step.refresh(weight)
    assert class_centres.unit_rows(weight, "float32", training=True) is None
    step_of(weight)
    kept = class_centres.unit_rows(weight, "float32", training=True)
    assert (kept is None) == is_captured
    assert is_captured or are_those_of(weight, kept)


@pytest.mark.parametrize("precision", ["tf32", "float16"])
def test_unit_rows_of_another_precision_do_not_take_the_memory_of_a_graph(
    kept_in_graphs, precision
):
    weight, capture, _ = kept_in_graphs
    with capture():
        kept = class_centres.unit_rows(weight, "float32", training=True)
    class_centres.unit_rows(weight, precision, training=True)  # eager steps from here on
    step_of(weight)
    assert class_centres.unit_rows(weight, precision, training=True) is None
    centre_step.refresh(weight)
    assert are_those_of(weight, kept)
    assert class_centres.unit_rows(weight, precision, training=True) is None


@pytest.mark.parametrize("write", ["a step of torch's", "a step after another precision"])
def test_a_graph_that_writes_only_class_centres_ends_the_unit_rows(kept_in_graphs, write):
    """No counter sees its replays, so each replay of any graph makes them again."""
    weight, capture, started = kept_in_graphs
    with capture():
        kept = class_centres.unit_rows(weight, "float32", training=True)
        if write == "a step of torch's":
            class_centres.forget(weight)
    if write == "a step after another precision":
        class_centres.unit_rows(weight, "float16", training=True)
        step_of(weight)
        with capture():
            step_of(weight)
    for _ in range(3):
        started.clear()
        centre_step.refresh(weight)
        assert [name for name, _ in started] == ["unit_rows_kernel"]
        weight.data.mul_(-1.0)  # as a replay
        assert class_centres.unit_rows(weight, "float32", training=True) is None
    centre_step.refresh(weight)
    assert are_those_of(weight, kept)


def test_a_rate_on_the_device_is_read_at_each_step(monkeypatch):
    """To the bit as a number, by the kernel and not by torch's step; unit rows are not kept."""
    ours, theirs = centres(), centres()
    settings = {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
    optimizer = CentreSGD([ours], ours, lr=torch.full((), 0.5), **settings)
    reference, started = CentreSGD([theirs], theirs, lr=0.5, **settings), []
    class_centres.unit_rows(ours, "float32", training=True)
    start = launch.start

    def noting(kernel, *args, **options):
        started.append(options["LR_IS_READ"])
        return start(kernel, *args, **options)

    monkeypatch.setattr(launch, "start", noting)
    for step, lr in enumerate((0.1, 0.3, 0.0)):
        optimizer.param_groups[0]["lr"].fill_(lr)
        reference.param_groups[0]["lr"] = lr
        for weight in (ours, theirs):
            with_gradient(weight, step)
        before = ours._version
        optimizer.step()
        reference.step()
        assert torch.equal(ours, theirs)
        assert ours._version == before + 1
        assert class_centres.known[ours].unit is None
    assert started == [True, False] * 3


def test_a_rehearsed_step_starts_what_a_captured_one_does(monkeypatch):
    """Nothing can be compiled during a capture. The other way round, a captured step may be the last."""
    weight, started, start = centres(), [], launch.start
    optimizer = CentreSGD([weight], weight, lr=torch.full((), 0.1), momentum=0.9)
    class_centres.unit_rows(weight, "float32", training=True)

    def noting(kernel, *args, **options):
        started.append((kernel, options))
        return start(kernel, *args, **options)

    monkeypatch.setattr(launch, "start", noting)
    for is_captured in (False, True):
        monkeypatch.setattr(launch, "is_capturing", lambda device, held=is_captured: held)
        with_gradient(weight, 1)
        optimizer.step()
    assert len(started) == 2
    assert started[0] == started[1]
