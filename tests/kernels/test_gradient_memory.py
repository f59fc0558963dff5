"""The memory of a class centres' gradient serves the next step, unless someone else still reads it."""

import gc

import pytest
import torch
from margin_oracle import inputs, loss_and_gradients, relative

from fusedface.kernels import ArcFace, MagFace, chunked, margin_loss
from fusedface.kernels.chunks import build, compiled, gradient_memory

ROWS, CLASSES, DIM = 24, 1000, 8
MARGINS = pytest.mark.parametrize("margin", [ArcFace(), MagFace()], ids=["whole loss", "primitive"])


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """Addresses of the memory of each forward's gradient, which it takes in chunks of 256 classes."""
    if build.library() is None:
        pytest.skip(build.state())
    monkeypatch.setattr(chunked, "COMPILED_FROM", 0)
    monkeypatch.setattr(chunked, "MAX_CHUNK", 256)
    addresses = []

    def gradient_like(library, weight):
        gradient = gradient_memory.gradient_like(library, weight)
        addresses.append(gradient.data_ptr())
        return gradient

    monkeypatch.setattr(compiled, "gradient_like", gradient_like)
    return addresses


def batch(seed):
    return inputs(ROWS, CLASSES, DIM, seed=seed)


def loss_of(seed, weight, margin):
    embeddings, _, labels = batch(seed)
    return margin_loss(embeddings, weight, labels, margin, backend="chunked").loss


def truth(seed, weight, margin):
    embeddings, _, labels = batch(seed)
    return loss_and_gradients(margin, embeddings, weight, labels, {})[2]


@MARGINS
def test_the_next_step_has_it(margin, made):
    """Autograd takes it as `.grad` without a copy, though the loss is still there."""
    weight = batch(0)[1].requires_grad_()
    losses = []
    for seed in range(3):
        weight.grad = None
        losses.append(loss_of(seed, weight, margin))
        losses[-1].backward()
        assert relative(weight.grad, truth(seed, weight, margin)) < 1e-4
        assert weight.grad.is_contiguous()
        assert weight.grad.untyped_storage().nbytes() == weight.nbytes
        assert weight.grad.data_ptr() == made[-1]
    assert len(set(made)) == 1


@pytest.mark.parametrize("holds", ["itself", "view", "array"])
def test_a_gradient_that_is_held_stays(holds, made):
    weight = batch(0)[1].requires_grad_()
    loss_of(0, weight, ArcFace()).backward()
    expected = weight.grad.clone()
    held = {
        "itself": lambda gradient: gradient,
        "view": lambda gradient: gradient[3:],
        "array": lambda gradient: gradient.detach().numpy(),
    }[holds](weight.grad)
    weight.grad = None
    loss_of(1, weight, ArcFace()).backward()
    assert made[0] != made[1]
    same = expected[3:] if holds == "view" else expected
    assert torch.equal(torch.as_tensor(held), same)


def test_what_other_processes_may_read_stays(made):
    weight = batch(0)[1].requires_grad_()
    loss_of(0, weight, ArcFace()).backward()
    shared = weight.grad.share_memory_().data_ptr()
    weight.grad = None
    loss_of(1, weight, ArcFace()).backward()
    assert shared not in made


@MARGINS
def test_gradients_add_up(margin):
    """Of two backwards one after the other, and of two forwards before both."""
    weight = batch(0)[1].requires_grad_()
    for seed in (0, 1):
        loss_of(seed, weight, margin).backward()
    both = [loss_of(seed, weight, margin) for seed in (2, 3)]
    for loss in both:
        loss.backward()
    expected = sum(truth(seed, weight, margin) for seed in range(4))
    assert relative(weight.grad, expected) < 1e-4


def test_other_class_centres_never_share_it(made):
    first, second = batch(0)[1].requires_grad_(), batch(1)[1].requires_grad_()
    loss_of(0, first, ArcFace()).backward()
    first.grad = None
    loss_of(0, second, ArcFace()).backward()
    assert made[0] != made[1]


def test_it_goes_with_its_class_centres():
    gc.collect()
    before = len(gradient_memory._last)
    weight = batch(0)[1].requires_grad_()
    loss_of(0, weight, ArcFace()).backward()
    assert len(gradient_memory._last) == before + 1
    del weight
    gc.collect()
    assert len(gradient_memory._last) == before


def test_class_centres_of_another_size_get_their_own(made):
    """`.data` may be set to other class centres."""
    weight = batch(0)[1].requires_grad_()
    loss_of(0, weight, ArcFace()).backward()
    weight.grad = None
    embeddings, other, labels = inputs(ROWS, CLASSES + 300, DIM, seed=5)
    weight.data = other
    margin_loss(embeddings, weight, labels, ArcFace(), backend="chunked").loss.backward()
    expected = loss_and_gradients(ArcFace(), embeddings, other, labels, {})[2]
    assert relative(weight.grad, expected) < 1e-4
