"""Class centres that learn in the backward without unit rows of all of them, against float64."""

import pytest
import torch
from margin_oracle import all_margins, inputs, matched_state

from fusedface.kernels import CurricularFace
from fusedface.kernels.gpu import layout, learning
from fusedface.kernels.gpu.arguments import Numbers
from fusedface.kernels.interface.update import CentreUpdate, Sampled
from fusedface.models import MarginHead

# Three chunks, the last one shorter and no multiple of a tile; columns that are no multiple of four.
ROWS, CLASSES, DIM = 11, 300, 18


@pytest.fixture(autouse=True)
def _in_chunks(monkeypatch):
    monkeypatch.setattr(layout, "CHUNK_BYTES", 1)
    for name in ("CHUNK_MULTIPLE", "UPDATE_MULTIPLE"):
        monkeypatch.setattr(layout, name, 128)
    assert layout.update_classes(ROWS, CLASSES, DIM, "float32") == 128


def step(problem, margin, keeps=None, **options):
    """Loss of each sample, largest cosines, hard negatives, gradient of the embeddings, change of the class
    centres and momentum, after a step of the kernels with `keeps`, or of PyTorch in float64."""
    embeddings, weight, labels, state = problem
    dtype = torch.float64 if keeps is None else torch.float32
    head = MarginHead(
        embeddings.shape[1], len(weight), margin, precision="float32",
        backend="reference" if keeps is None else "triton", reduction="sum", **options,
    ).to(dtype)  # fmt: skip
    with torch.no_grad():
        head.weight.copy_(weight)
        for name, value in state.items():
            head.get_buffer(name).copy_(value)
    optimizer = torch.optim.SGD(
        head.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01
    )
    if keeps is not None:
        head.fuse(optimizer, keeps_unit_rows=keeps)
    x = embeddings.to(dtype, copy=True).requires_grad_()
    out = head(x, labels)
    out.loss.backward()
    optimizer.step()
    return (
        out.per_sample_loss.detach(), out.max_negative_cosine, out.hard_negatives, x.grad,
        head.weight.detach() - weight.to(dtype), optimizer.state[head.weight]["momentum_buffer"],
        *(out.state[name] for name in sorted(out.state)),
    )  # fmt: skip


def hold(found, truth, relative=1e-4):
    for i, (actual, expected) in enumerate(zip(found, truth, strict=True)):
        error = (actual.double() - expected.double()).abs().max()
        assert error <= relative * expected.double().abs().max() + 1e-12, (i, error)


def problem_of(margin, seed=0):
    embeddings, weight, labels = inputs(ROWS, CLASSES, DIM, seed=seed)
    state = matched_state(margin, embeddings)
    labels[1], labels[2], labels[3], labels[4] = -1, CLASSES - 1, 128, 127  # ends of chunks
    return embeddings, weight, labels, state


MARGINS = all_margins(s=16.0)
# One margin of each form that the kernels tell apart meets both schedules; each other one of them in turn.
FORMS = ("arcface", "mvarc", "curricularface", "adaface")
SCHEDULES = ("narrow", "wide")
CASES = [(name, schedule) for name in FORMS for schedule in SCHEDULES]
CASES += [(n, SCHEDULES[i % 2]) for i, n in enumerate(n for n in MARGINS if n not in FORMS)]


@pytest.mark.parametrize(("name", "schedule"), CASES, indirect=["schedule"])
def test_every_margin(name, schedule):
    problem = problem_of(MARGINS[name])
    hold(step(problem, MARGINS[name], keeps=False), step(problem, MARGINS[name]))


@pytest.mark.usefixtures("schedule")
def test_it_is_what_kept_unit_rows_give():
    """To rounding: sums have another order. The order is fixed, so a second run has the same bits."""
    problem = problem_of(MARGINS["curricularface"])
    found = [step(problem, MARGINS["curricularface"], keeps) for keeps in (False, False, True)]
    assert all(torch.equal(a, b) for a, b in zip(*found[:2], strict=True))
    hold(found[0], found[2], relative=3e-6)


@pytest.mark.parametrize("t", [0.3, 1.0])
@pytest.mark.usefixtures("schedule")
def test_rows_that_the_fixed_reference_does_not_suit(t):
    """Every negative of a row lies far below; the class centres are normalised once more for it."""
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 32, generator=g)
    weight = 3.0 * shared + 0.15 * torch.randn(CLASSES, 32, generator=g)
    sides = torch.tensor([-1.0, 1.0, -1.0, -1.0, 1.0])[:, None]
    embeddings = sides * shared + 0.05 * torch.randn(5, 32, generator=g)
    labels = torch.tensor([0, 1, 200, 299, 299])
    margin = CurricularFace(s=74.0)  # about the largest at which the reference is fixed
    assert Numbers(margin.s, 1.0, 0.0, "float32", reweights=True).reference(CLASSES).fixed
    problem = (embeddings, weight, labels, {"t": torch.tensor(t)})
    found, truth = step(problem, margin, keeps=False), step(problem, margin)
    hold(found[:1] + found[3:], truth[:1] + truth[3:])


@pytest.mark.usefixtures("schedule")
def test_sampled_rows_make_the_step_that_kept_unit_rows_make():
    found = []
    for keeps in (False, True):
        torch.manual_seed(0)
        problem = problem_of(MARGINS["curricularface"])
        found.append(step(problem, MARGINS["curricularface"], keeps, sample_rate=0.6))
    hold(*found, relative=3e-6)
    moved = (found[0][4] != 0).any(dim=1).sum()
    assert moved == 0.6 * CLASSES


def test_without_a_gradient_of_the_embeddings():
    _, weight, labels, _ = problem = problem_of(MARGINS["arcface"])
    head = MarginHead(DIM, CLASSES, MARGINS["arcface"], backend="triton", precision="float32")
    with torch.no_grad():
        head.weight.copy_(weight)
    optimizer = torch.optim.SGD(
        head.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01
    )
    head.fuse(optimizer, keeps_unit_rows=False)
    head(problem[0], labels).loss.mul(ROWS - 1).backward()  # the mean over all but one, as a sum
    hold([head.weight.detach() - weight], [step(problem, MARGINS["arcface"])[4]])


def update_of(memory, sampled=None, **options):
    number = torch.zeros((), dtype=torch.float64)
    return CentreUpdate(
        memory,
        number,
        number,
        number.bool(),
        number.long(),
        0.9,
        True,
        0.0,
        sampled=sampled,
        **options,
    )


def test_half_of_the_memory_decides(monkeypatch):
    """Class centres, momentum, and unit rows with inverse lengths: 4 D, 2 D and 2 D + 4 bytes a class."""
    weight = torch.zeros(1024, 64)
    momentum = torch.zeros(1024, 64, dtype=torch.bfloat16)
    needed = 1024 * (4 * 64 + 2 * 64 + 2 * 64 + 4)
    keeps = lambda w, update: learning._keeps_unit_rows(w, update, "bfloat16")  # noqa: E731
    assert keeps(weight, update_of(momentum))  # a CPU, whose memory is not asked for
    for memory, expected in ((2 * needed, True), (2 * needed - 2, False)):
        monkeypatch.setattr(layout, "memory", lambda device, memory=memory: memory)
        assert keeps(weight, update_of(momentum)) == expected
        assert keeps(weight, update_of(momentum, keeps_unit_rows=not expected)) != expected
    # Of a sample there are fewer unit rows, but all class centres count.
    sampled = Sampled(weight, torch.arange(256), weight._version)
    needed = 1024 * (4 * 64 + 2 * 64) + 256 * (2 * 64 + 4)
    for memory, expected in ((2 * needed, True), (2 * needed - 2, False)):
        monkeypatch.setattr(layout, "memory", lambda device, memory=memory: memory)
        assert keeps(weight[:256], update_of(momentum, sampled)) == expected
