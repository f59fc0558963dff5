"""Exponentials kept for the backward, in float32, in which the interpreter is right, against float64."""

import pytest
import torch
from margin_oracle import all_margins, inputs, loss_and_gradients, matched_state, relative, run

from fusedface.kernels import CosFace, CurricularFace, HeadOptions, MVArc, margin_loss
from fusedface.kernels.gpu import choice, loss, whole
from fusedface.kernels.gpu.arguments import Numbers
from fusedface.kernels.gpu.loss_operators import NUM_RESULTS
from fusedface.kernels.gpu.tiles import Tile

MARGINS = all_margins() | {"mvarc t=1.2": MVArc(t=1.2)}
TILES = {
    "lse_kept": Tile(block_b=32, block_c=64, block_k=16),
    "kept": Tile(block_b=32, block_c=64, block_d=16, block_k=32),
}


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch):
    original = choice.candidates

    def candidates(case, device):
        return (TILES[case.kernel],) if case.kernel in TILES else original(case, device)

    monkeypatch.setattr(choice, "candidates", candidates)
    monkeypatch.setattr(loss, "check_keep", lambda *args: None)
    choice.forget()
    yield
    choice.forget()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cosface", {"reduction": "sum"}),
        ("curricularface", {"focal_gamma": 2.0}),
        ("mvarc t=1.2", {"target_gradient": "straight_through"}),
        ("mvam", {}),
        ("adaface", {"reduction": "none"}),
        ("magface easy", {"focal_gamma": 0.5}),
    ],
    ids=str,
)
@pytest.mark.parametrize("dim", [16, 40])
def test_gradients(name, dim, options):
    margin = MARGINS[name]
    embeddings, weight, labels = inputs(37, 333, dim)
    labels[4], labels[5] = labels[6], -1
    problem = (margin, embeddings, weight, labels, matched_state(margin, embeddings))
    out, *grads = run(*problem, "triton", precision="float32", keep_exponentials=True, **options)
    loss, *truths = loss_and_gradients(
        *problem,
        gamma=options.get("focal_gamma", 0.0),
        reduction=options.get("reduction", "mean"),
        straight_through="target_gradient" in options,
    )
    assert relative(out.per_sample_loss.detach(), loss) < 1e-5
    for actual, truth in zip(grads, truths, strict=True):
        assert relative(actual, truth) < 3e-5


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_rows_that_are_summed_again(t):
    """Every negative far below, or far above: the row's exponentials get a reference of its own."""
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 32, generator=g)
    weight = shared + 0.05 * torch.randn(170, 32, generator=g)
    sides = torch.tensor([-1.0, 1.0, -1.0, -1.0, 1.0])[:, None]
    embeddings = sides * shared + 0.05 * torch.randn(5, 32, generator=g)
    problem = (CurricularFace(s=74.0), embeddings, weight, torch.arange(5), {"t": torch.tensor(t)})
    assert Numbers(74.0, 1.0, 0.0, "float32", reweights=True).reference(170).fixed
    out, *grads = run(
        *problem, "triton", precision="float32", keep_exponentials=True, reduction="sum"
    )
    loss, *truths = loss_and_gradients(*problem, reduction="sum")
    for actual, truth in zip((out.per_sample_loss.detach(), *grads), (loss, *truths), strict=True):
        assert relative(actual, truth) < 1e-4


def test_samples_with_weights_below_zero():
    embeddings, weight, labels = inputs(9, 150, 32)
    signs, gradients = torch.tensor([1.0, -2.0, 0.0] * 3), []
    for options in ({"backend": "reference"}, {"backend": "triton", "keep_exponentials": True}):
        x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
        state = {"t": torch.tensor(0.3)}
        out = margin_loss(x, w, labels, CurricularFace(), state=state, reduction="none", **options)
        (out.loss * signs).sum().backward(retain_graph=True)
        first = x.grad.clone()
        (out.loss * signs).sum().backward()  # what is kept is not used up
        assert torch.equal(x.grad, 2.0 * first)
        gradients.append((x.grad, w.grad))
    for expected, actual in zip(*gradients, strict=True):
        assert relative(actual, expected.double()) < 1e-4


def test_the_backward_writes_to_nothing_that_was_saved():
    """As its schema says; whoever saved the tensors may share them."""
    embeddings, weight, labels = inputs(9, 150, 32)
    call = HeadOptions(margin=CosFace(), keep_exponentials=True).call(True, "float32")
    out = whole.forward(embeddings, weight, labels, [], None, call, True)
    saved = out[NUM_RESULTS:]
    before = [tensor.clone() for tensor in saved]
    whole.backward(embeddings, weight, saved, torch.tensor(2.0), None, call, True, True)
    assert all(
        map(
            torch.equal, (s.view(torch.uint8) for s in saved), (b.view(torch.uint8) for b in before)
        )
    )


@pytest.mark.parametrize("frozen", ["embeddings", "weight"])
def test_one_gradient_is_enough(frozen):
    embeddings, weight, labels = inputs(9, 150, 32)
    gradients = []
    for options in ({"backend": "reference"}, {"backend": "triton", "keep_exponentials": True}):
        x = embeddings.clone().requires_grad_(frozen != "embeddings")
        w = weight.clone().requires_grad_(frozen != "weight")
        margin_loss(x, w, labels, MVArc(), **options).loss.backward()
        gradients.append(w.grad if frozen == "embeddings" else x.grad)
    assert relative(gradients[1], gradients[0].double()) < 3e-5
