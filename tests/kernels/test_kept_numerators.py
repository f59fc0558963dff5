"""What the forward of compiled loops keeps for the backward, up to a number of bytes, changes no result."""

import pytest
import torch
from margin_oracle import compare, fresh_state, inputs, relative, run

from fusedface.kernels import CurricularFace, chunked, margin_loss
from fusedface.kernels.chunks import build, compiled

CHUNK = 100
CLASSES = 7 * CHUNK + 1
SHAPES = {"more rows": (24, 8), "more dimensions": (12, 40)}  # the backward has a way for each


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    if build.library() is None:
        pytest.skip(build.state())
    monkeypatch.setattr(chunked, "COMPILED_FROM", 0)
    monkeypatch.setattr(chunked, "MIN_CHUNK", CHUNK)
    monkeypatch.setattr(chunked, "MAX_CHUNK", CHUNK)


def keep(monkeypatch, chunks, rows, itemsize=4):
    monkeypatch.setattr(compiled, "KEPT_BYTES", int(chunks * CHUNK * rows * itemsize))


@pytest.mark.parametrize("chunks", [0, 0.9, 3.5, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_of_any_number_of_chunks(shape, chunks, monkeypatch):
    rows, dim = SHAPES[shape]
    keep(monkeypatch, chunks, rows)
    embeddings, weight, labels = inputs(rows, CLASSES, dim)
    labels[3] = -1
    compare(CurricularFace(), embeddings, weight, labels, "chunked", 1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_in_bfloat16(shape, monkeypatch):
    """They are rounded as what the backward would compute again is."""
    (rows, dim), gradients = SHAPES[shape], []
    for chunks in (0, 3.5, 8):
        keep(monkeypatch, chunks, rows, itemsize=2)
        state, options = fresh_state(CurricularFace()), {"precision": "bfloat16"}
        of = inputs(rows, CLASSES, dim)
        gradients.append(run(CurricularFace(), *of, state, "chunked", **options)[2])
    assert all(relative(other, gradients[0].double()) < 2.0**-6 for other in gradients[1:])


def test_a_second_backward_reads_the_same(monkeypatch):
    keep(monkeypatch, 3.5, 24)
    embeddings, weight, labels = inputs(24, CLASSES, 8)
    weight.requires_grad_()
    loss = margin_loss(embeddings, weight, labels, CurricularFace(), backend="chunked").loss
    first, second = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_bytes_are_bounded(monkeypatch):
    """Nothing is kept without a gradient of the class centres, and never more than the bound."""
    kept = []
    original = compiled.sum_up

    def sum_up(*args):
        totals = original(*args)
        kept.append(sum(numbers.nbytes for numbers in totals.kept[2:]))
        return totals

    monkeypatch.setattr(compiled, "sum_up", sum_up)
    keep(monkeypatch, 3.5, 24)
    embeddings, weight, labels = inputs(24, CLASSES, 8)
    for wanted in (weight.requires_grad_(), weight.detach()):
        margin_loss(
            embeddings.requires_grad_(), wanted, labels, CurricularFace(), backend="chunked"
        )
    assert kept == [3 * CHUNK * 24 * 4, 0]
