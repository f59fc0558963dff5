"""The host's part of a repeated step: what it allocates, where it lies, and what is never repeated.

On a driver that starts nothing.
"""

import pytest
import torch

from fusedface.bench.stub_driver import StubDriver, installed
from fusedface.kernels import AdaFace, CosFace, CurricularFace, functional
from fusedface.kernels.centre_sgd import CentreSGD
from fusedface.kernels.gpu import choice, launch, layout, memory, replay, rows
from fusedface.models import MarginHead

ROWS, CLASSES, DIM = 32, 192, 64


@pytest.fixture
def driver():
    with installed(StubDriver()) as installed_driver:
        yield installed_driver


def a_step(margin, **options):
    head = MarginHead(DIM, CLASSES, margin, backend="triton", precision="bfloat16", **options)
    embeddings = torch.randn(ROWS, DIM, requires_grad=True)
    labels = torch.randint(CLASSES, (ROWS,))

    def step():
        head.weight.grad = embeddings.grad = None
        out = head(embeddings, labels)
        out.loss.backward()
        return out, embeddings, head.weight

    return step


@pytest.mark.parametrize("margin", [CosFace(), CurricularFace(), AdaFace()], ids=lambda m: m.name)
@pytest.mark.usefixtures("driver")
def test_a_repeated_step_allocates_few_tensors(margin, monkeypatch):
    """An allocation costs the host as much time as a launch. The forward once had seventeen."""
    step, made, like = a_step(margin), [], torch.empty_like
    step()
    step()

    def counted(*args, **options):
        made.append(args)
        return like(*args, **options)

    monkeypatch.setattr(torch, "empty_like", counted)
    for name in ("empty", "zeros", "full"):
        monkeypatch.setattr(torch, name, None)
    out, embeddings, weight = step()
    assert len(made) == 7 + 2
    assert embeddings.grad.shape == embeddings.shape
    assert embeddings.grad.is_contiguous()
    assert weight.grad.shape == weight.shape
    assert (out.loss.shape, out.loss.dtype) == ((), torch.float32)
    assert out.per_sample_loss.shape == out.target_cosine.shape == (ROWS,)


@pytest.mark.parametrize("margin", [CosFace(), CurricularFace(), AdaFace()], ids=lambda m: m.name)
def test_one_step_loads_all_that_a_captured_one_starts(driver, margin, monkeypatch):
    """A captured step computes the statistics too, which the step before it did not read."""
    step = a_step(margin)
    step()
    loaded = list(driver.loaded)
    monkeypatch.setattr(launch, "is_capturing", lambda device: True)
    monkeypatch.setattr(functional, "_is_recorded", lambda tensor: True)
    started = len(driver.started)
    step()
    assert driver.loaded == loaded
    assert "statistics_kernel" in [name for name, _ in driver.started[started:]]


@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("rate", ["a number", "on the device", "on the device, unit rows kept"])
def test_one_step_with_the_optimiser_loads_all_that_a_captured_one_starts(
    driver, rate, before, monkeypatch
):
    """The class centres of the second step find unit rows where a captured one may find none."""
    head = MarginHead(DIM, CLASSES, CurricularFace(), backend="triton", precision="bfloat16")
    optimizer = CentreSGD(head.parameters(), head.weight, lr=0.1, momentum=0.9, nesterov=True)
    if rate != "a number":
        optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    if "kept" in rate:
        optimizer.keep_in_graphs()
    labels = torch.randint(CLASSES, (ROWS,))

    def step():
        optimizer.zero_grad()
        head(torch.randn(ROWS, DIM, requires_grad=True), labels).loss.backward()
        optimizer.step()

    for _ in range(before):
        step()
    optimizer.before_replay()
    loaded, started = list(driver.loaded), len(driver.started)
    monkeypatch.setattr(launch, "is_capturing", lambda device: True)
    monkeypatch.setattr(functional, "_is_recorded", lambda tensor: True)
    step()
    assert driver.loaded == loaded
    assert {"sgd_kernel", "statistics_kernel"} <= {name for name, _ in driver.started[started:]}


def test_settings_of_the_optimiser_that_change_load_their_kernel(driver, monkeypatch):
    head = MarginHead(DIM, CLASSES, CurricularFace(), backend="triton", precision="bfloat16")
    optimizer = CentreSGD(head.parameters(), head.weight, lr=0.1)
    labels = torch.randint(CLASSES, (ROWS,))

    def step():
        optimizer.zero_grad()
        head(torch.randn(ROWS, DIM, requires_grad=True), labels).loss.backward()
        optimizer.step()

    step()
    optimizer.param_groups[0]["momentum"] = 0.9
    step()
    loaded = list(driver.loaded)
    monkeypatch.setattr(launch, "is_capturing", lambda device: True)
    monkeypatch.setattr(functional, "_is_recorded", lambda tensor: True)
    step()
    assert driver.loaded == loaded


@pytest.mark.usefixtures("driver")
def test_a_captured_step_says_that_another_has_to_come_before(monkeypatch):
    step = a_step(CosFace())
    monkeypatch.setattr(launch, "is_capturing", lambda device: True)
    with pytest.raises(RuntimeError, match=r"rows_kernel has to be loaded.*: run one step"):
        step()
    monkeypatch.undo()
    step()


@pytest.mark.usefixtures("driver")
def test_a_second_derivative_is_an_error():
    embeddings = torch.randn(ROWS, DIM, requires_grad=True)
    head = MarginHead(DIM, CLASSES, CosFace(), backend="triton", precision="bfloat16")
    loss = head(embeddings, torch.zeros(ROWS, dtype=torch.int64)).loss
    upstream = torch.ones((), requires_grad=True)
    (first,) = torch.autograd.grad(loss, embeddings, upstream, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.usefixtures("driver")
def test_class_centres_that_changed_before_the_backward_are_an_error():
    head = MarginHead(DIM, CLASSES, CosFace(), backend="triton", precision="bfloat16")
    for _ in range(2):
        loss = head(torch.randn(ROWS, DIM), torch.zeros(ROWS, dtype=torch.int64)).loss
        with torch.no_grad():
            head.weight.mul_(2.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.usefixtures("driver")
def test_a_part_of_two_inputs_with_one_memory_is_not_repeated():
    """In the next call the two may lie apart, and nobody knows which of them the kernel was given."""
    labels = torch.zeros(ROWS, dtype=torch.int64)

    def compute(first, second):
        del second
        flags = labels.new_empty(layout.flags_shape(ROWS, CLASSES), dtype=torch.int8)
        launch.start(
            rows.flags_kernel, len(flags),
            first[:], flags, ROWS, CLASSES, flags.shape[1], BLOCK=128,
        )  # fmt: skip
        return (flags,)

    replay.run("shared", compute, labels, labels.view(-1))
    replay.run("apart", compute, labels, labels.clone())
    assert choice.decided.replays["shared"] is None
    assert choice.decided.replays["apart"] is not None


@pytest.mark.parametrize("with_w", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("num_rows", [1, 130])
def test_what_is_kept_does_not_overlap(num_rows, keep, with_w):
    """Every number of every view can be told from the others, and views are aligned for the kernels."""
    call = MarginHead(DIM, CLASSES, CosFace()).options.call(True, "bfloat16")._replace(keep=keep)
    with_direction = memory.has_direction(DIM, call, needs_embeddings=True)
    size = memory.bytes_of_passes(num_rows, CLASSES, DIM, call, with_direction, with_w)
    pieces = (
        torch.zeros(memory.num_of_rows(num_rows, keep)), torch.zeros(size, dtype=torch.uint8)
    )  # fmt: skip
    of_rows = memory.rows_of(pieces[0], num_rows, keep)
    of_passes = memory.passes_of(pieces[1], num_rows, CLASSES, DIM, call, with_w)
    assert len(of_passes.w) == len(of_passes.inverse_w) == (256 if with_w else 0)
    assert len(of_passes.direction) == (0 if keep else num_rows)
    assert len(of_passes.exponentials) == (layout.padded_rows(num_rows) if keep else 0)
    for views in (of_rows, of_passes):
        for number, view in enumerate(views, start=1):
            assert view.data_ptr() % 16 == 0
            view.view(torch.uint8).fill_(number) if view.dim() else view.fill_(number)
        for number, view in enumerate(views, start=1):
            assert (view.view(torch.uint8) == number).all()
