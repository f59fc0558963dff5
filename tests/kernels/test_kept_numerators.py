"""What the forward of compiled loops keeps for the backward changes no result, wherever it lies."""

import pytest
import torch
from margin_oracle import compare, fresh_state, inputs, loss_and_gradients, relative, run

from fusedface.kernels import ArcFace, CurricularFace, MagFace, chunked, margin_loss, products
from fusedface.kernels.chunks import build, compiled
from fusedface.kernels.chunks import kept as kept_numerators

CHUNK = 100
CLASSES = 7 * CHUNK + 1
# In float32 the first has room in the gradient for a third of the numerators, the second for all.
SHAPES = {"more rows": (24, 8), "more dimensions": (12, 40)}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    if build.library() is None:
        pytest.skip(build.state())
    monkeypatch.setattr(chunked, "COMPILED_FROM", 0)
    monkeypatch.setattr(chunked, "MIN_CHUNK", CHUNK)
    monkeypatch.setattr(chunked, "MAX_CHUNK", CHUNK)
    monkeypatch.setattr(chunked, "CHUNK_STEP", CHUNK)


def keep(monkeypatch, chunks, rows, itemsize=4):
    """Outside the gradient."""
    monkeypatch.setattr(kept_numerators, "KEPT_BYTES", int(chunks * CHUNK * rows * itemsize))


@pytest.mark.parametrize("by_mkl", [False, True])
@pytest.mark.parametrize("chunks", [0, 0.9, 3.5, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_of_any_number_of_chunks(shape, chunks, by_mkl, monkeypatch):
    """By the products of any maker's processor."""
    monkeypatch.setattr(products, "mkl_is_fast", lambda: by_mkl)
    rows, dim = SHAPES[shape]
    keep(monkeypatch, chunks, rows)
    embeddings, weight, labels = inputs(rows, CLASSES, dim)
    labels[3] = -1
    compare(CurricularFace(), embeddings, weight, labels, "chunked", 1e-4)


@pytest.mark.parametrize("rows", [4, 8, 9, 13, 24, 100])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_what_is_written_is_read_already(rows, itemsize, monkeypatch):
    """In bytes of the gradient: the numerators of a chunk and of those before it end at or before it."""
    keep(monkeypatch, 1, rows, itemsize)
    for classes in (1, CHUNK, CHUNK + 1, 3 * CHUNK - 1, CLASSES):
        where = kept_numerators.layout(rows, classes, 8, CHUNK, itemsize, True)
        sizes = [min(CHUNK, classes - first) for first in range(0, classes, CHUNK)]
        assert where.chunks == len(sizes)
        assert where.apart == min(1, len(sizes) - where.inside)
        end = 0
        for nth in range(len(sizes) - where.inside, len(sizes)):
            assert end <= nth * CHUNK * 8 * 4
            end += sizes[nth] * rows * itemsize
        assert end <= classes * 8 * 4
        assert end + 2 * CHUNK * rows * itemsize > classes * 8 * 4 or where.inside == len(sizes)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("like", ["turned", "bfloat16"])
def test_of_a_gradient_that_cannot_hold_any(like, shape, monkeypatch):
    """The loops do not write to it: its numbers are not float32, or not in the order of rows."""
    rows, dim = SHAPES[shape]
    keep(monkeypatch, 3.5, rows)
    embeddings, weight, labels = inputs(rows, CLASSES, dim)
    weight = weight.bfloat16() if like == "bfloat16" else weight.t().contiguous().t()
    found = run(ArcFace(), embeddings, weight, labels, {}, "chunked")[2]
    expected = loss_and_gradients(ArcFace(), embeddings, weight.float(), labels, {})[2]
    assert found.stride() == weight.stride()
    assert relative(found, expected) < (2.0**-7 if like == "bfloat16" else 1e-4)


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


@pytest.mark.parametrize("margin", [ArcFace(), MagFace()], ids=["whole loss", "primitive"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_second_backward_is_right_too(precision, shape, margin, monkeypatch):
    """The first one has written its gradient over numerators."""
    rows, dim = SHAPES[shape]
    keep(monkeypatch, 1, rows)
    embeddings, weight, labels = inputs(rows, CLASSES, dim)
    expected = loss_and_gradients(margin, embeddings, weight, labels, {})[2]
    weight.requires_grad_()
    options = {"backend": "chunked", "precision": precision}
    loss = margin_loss(embeddings, weight, labels, margin, **options).loss
    found = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for _ in range(3)]
    bound = 1e-4 if precision == "float32" else 2.0**-4
    assert all(relative(gradient, expected) < bound for gradient in found)
    assert torch.equal(found[1], found[2])


def test_bytes_are_bounded(monkeypatch):
    """Nothing is kept without a gradient of the class centres, and never more than the bound."""
    kept = []
    original = compiled.sum_up

    def sum_up(*args, **options):
        sums, of_chunks = original(*args, **options)
        kept.append(sum(numbers.nbytes for numbers in of_chunks._apart))
        return sums, of_chunks

    monkeypatch.setattr(compiled, "sum_up", sum_up)
    keep(monkeypatch, 3.5, 24)
    embeddings, weight, labels = inputs(24, CLASSES, 8)
    for wanted in (weight.requires_grad_(), weight.detach()):
        margin_loss(
            embeddings.requires_grad_(), wanted, labels, CurricularFace(), backend="chunked"
        )
    assert kept == [3 * CHUNK * 24 * 4, 0]
