"""Class centres that learn in the backward, as compiled, on an emulated GPU; bfloat16 ones too."""

from dataclasses import replace

import pytest
import torch
from emulated_head import CAPABILITIES, emulated
from margin_oracle import inputs
from ptx_emulator import Options

from fusedface.kernels import CurricularFace
from fusedface.kernels.gpu import layout, learning
from fusedface.kernels.interface.update import CentreUpdate, Sampled
from fusedface.kernels.sgd import RowsSGD
from fusedface.models import MarginHead

CLASSES = 40
DTYPES = [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)]


def update_of(momentum):
    """With numbers whose products are exact, so that a fused multiply-add rounds no differently."""
    number = lambda value: torch.tensor(value, dtype=torch.float64)  # noqa: E731
    return CentreUpdate(
        momentum, number(0.125), number(4.0), torch.tensor(False), torch.tensor(2**62 + 12345),
        momentum=0.5, nesterov=True, weight_decay=0.25, first_class=7,
    )  # fmt: skip


@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{}".format)
@pytest.mark.parametrize("is_sampled", [False, True], ids=["all", "sampled"])
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [16, 18])
def test_rounding_by_chance_is_that_of_the_chunked_backend(dim, dtypes, is_sampled, capability):
    """Bit for bit: the same random bits, in chunks and with a sample."""
    g = torch.Generator().manual_seed(0)
    start = [torch.randn(CLASSES, dim, generator=g).to(dtype) for dtype in dtypes]
    rows = torch.tensor([3, 4, 11, 17, 30, 39]) if is_sampled else torch.arange(CLASSES)
    gradient = torch.randn(len(rows), dim, generator=g)
    half = len(rows) // 2
    weight, momentum = (tensor.clone() for tensor in start)
    update, upstream = update_of(momentum), torch.ones(3)

    def sampled(update, weight):
        of = Sampled(weight, rows, weight._version) if is_sampled else None
        return replace(update, sampled=of), weight[rows] if is_sampled else weight

    with emulated(capability, Options(check_races=True)):
        step = learning._Step(*sampled(update, weight)[::-1], upstream, upstream, 64.0)
        step.make(0, gradient[:half])
        step.make(half, gradient[half:])
    expected, buffer = (tensor.clone() for tensor in start)
    update, copied = sampled(update_of(buffer), expected)
    sgd = RowsSGD(copied, update, upstream)
    sgd.step(0, gradient * sgd.unscale)
    assert torch.equal(weight, expected)
    assert torch.equal(momentum, buffer)
    assert torch.equal((weight != start[0]).any(dim=1).nonzero()[:, 0], rows)


def sgd_of(problem, backend, precision="float32", dtype=torch.float32, **options):
    """Change of the class centres and gradient of the embeddings after a step in the backward."""
    x, weight, labels = problem
    head = MarginHead(
        x.shape[1], len(weight), CurricularFace(s=16.0), backend=backend, precision=precision
    ).to(dtype)
    with torch.no_grad():
        head.weight.copy_(weight)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5, momentum=0.9, nesterov=True)
    head.fuse(optimizer, **options)
    row = x.detach().to(dtype, copy=True).requires_grad_()
    head(row, labels).loss.backward()
    return head.weight.detach() - weight.to(dtype), row.grad


def in_chunks_of(monkeypatch, size):
    monkeypatch.setattr(layout, "CHUNK_BYTES", 1)
    for name in ("CHUNK_MULTIPLE", "UPDATE_MULTIPLE"):
        monkeypatch.setattr(layout, name, size)


def hold(found, problem, precision):
    for ours, truth in zip(found, sgd_of(problem, "chunked", dtype=torch.float64), strict=True):
        allowed = {"bfloat16": 0.02, "tf32": 3e-3, "float32": 1e-4}[precision]
        assert (ours - truth).norm() < allowed * truth.norm()


def exhaustive(*case):
    return pytest.param(*case, marks=pytest.mark.exhaustive)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "capability"), [("bfloat16", 80), exhaustive("float32", 90)])
def test_a_step(precision, capability, monkeypatch):
    """Both schedules, in two chunks, within the rounding of the products."""
    in_chunks_of(monkeypatch, 128)
    problem = inputs(19, 140, 32)
    with emulated(capability, Options(check_races=True)) as runs:
        found = sgd_of(problem, "triton", precision)
    assert sum("row_update" in run.name for run in runs) == 2
    hold(found, problem, precision)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dim", "precision", "capability"),
    [(128, "bfloat16", 80)]
    + [
        exhaustive(dim, precision, capability)
        for dim in (128, 512)
        for precision in ("bfloat16", "tf32", "float32")
        for capability in CAPABILITIES
        if (dim, precision, capability) != (128, "bfloat16", 80)
    ],
)
def test_a_step_without_unit_rows_of_all_class_centres(dim, precision, capability, monkeypatch):
    """Two chunks, the second one shorter than a tile."""
    in_chunks_of(monkeypatch, 256)
    problem = inputs(9, 280, dim)
    with emulated(capability, Options(check_races=True)) as runs:
        found = sgd_of(problem, "triton", precision, keeps_unit_rows=False)
    assert sum("add_chunk" in run.name for run in runs) == 2
    hold(found, problem, precision)
