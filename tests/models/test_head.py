"""MarginHead: what it holds, when it learns t, what it saves."""

import pytest
import torch
from margin_oracle import inputs
from torch.utils.checkpoint import checkpoint

from fusedface.kernels import AdaFace, ArcFace, CurricularFace, margin_loss, sampling
from fusedface.models.head import MarginHead


def head_and_batch(margin=None, **options):
    torch.manual_seed(0)
    head = MarginHead(16, 30, margin or CurricularFace(), **options)
    embeddings, _, labels = inputs(8, 30, 16)
    return head, embeddings.requires_grad_(), labels


def test_forward_and_backward():
    head, embeddings, labels = head_and_batch()
    out = head(embeddings, labels)
    assert out.loss.shape == ()
    assert out.per_sample_loss.shape == out.target_cosine.shape == out.correct.shape == (8,)
    out.loss.backward()
    assert head.weight.grad.shape == (30, 16)
    assert head.weight.dtype == torch.float32
    assert embeddings.grad.abs().sum() > 0


def test_t_is_updated_before_use_in_training_only():
    head, embeddings, labels = head_and_batch()
    buffer = head.t
    out = head(embeddings, labels)
    mean = out.target_cosine.mean()
    torch.testing.assert_close(head.t, 0.01 * mean)
    torch.testing.assert_close(out.state["t"], head.t)
    assert head.t is buffer
    expected = margin_loss(embeddings, head.weight, labels, head.margin, state={"t": 0.01 * mean})
    torch.testing.assert_close(out.loss, expected.loss)
    before = head.t.clone()
    head.eval()
    out = head(embeddings, labels)
    assert head.t == before
    assert out.state["t"] == before


def test_the_t_of_a_batch_does_not_change_later():
    head, embeddings, labels = head_and_batch()
    first = head(embeddings, labels).state["t"]
    kept = first.item()
    head(embeddings, labels)
    assert first.item() == kept


@pytest.mark.parametrize("margin", [CurricularFace(), AdaFace(), ArcFace()], ids=str)
def test_state_dict_carries_on(margin):
    head, embeddings, labels = head_and_batch(margin)
    head(embeddings, labels)
    assert set(head.state_dict()) == {"weight", *margin.initial_state()}
    other = MarginHead(16, 30, margin)
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(other(embeddings, labels).loss, head(embeddings, labels).loss)
    for name in margin.initial_state():
        assert torch.equal(getattr(other, name), getattr(head, name))
        assert getattr(head, name).item() != margin.initial_state()[name]


def test_options_reach_the_loss():
    embeddings, weight, labels = inputs(8, 30, 16)
    labels[0] = 7
    options = {
        "backend": "reference", "focal_gamma": 2.0, "reduction": "none", "ignore_index": 7,
        "target_gradient": "straight_through", "precision": "bfloat16",
    }  # fmt: skip
    head = MarginHead(16, 30, ArcFace(m=0.3), **options)
    head.weight.data.copy_(weight)
    x, again = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    out = head(x, labels)
    expected = margin_loss(again, weight, labels, ArcFace(m=0.3), **options)
    assert torch.equal(out.loss, expected.loss)
    out.loss.sum().backward()
    expected.loss.sum().backward()
    assert torch.equal(x.grad, again.grad)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"embedding_dim": 0}, ["embedding_dim", "0"]),
        ({"num_classes": 1}, ["num_classes", "1"]),
        ({"backend": "nope"}, ["backend", "'nope'"]),
        ({"reduction": "nope"}, ["reduction", "'nope'"]),
    ],
)
def test_mistakes_are_named(arguments, words):
    arguments = {"embedding_dim": 16, "num_classes": 30, "margin": ArcFace()} | arguments
    with pytest.raises(ValueError, match=words[0]) as error:
        MarginHead(**arguments)
    assert all(word in str(error.value) for word in words)


CASTS = {
    "to": lambda head: head.to(torch.bfloat16),
    "half": lambda head: head.half(),
    "bfloat16": lambda head: head.bfloat16(),
    "a parent's": lambda head: torch.nn.Sequential(head).half()[0],
}


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("margin", [CurricularFace(), AdaFace()], ids=lambda margin: margin.name)
def test_the_state_stays_float32(margin, cast):
    """In bfloat16 a step of 0.01 towards 0.9 is lost from 0.7 on, and every step is rounded."""
    head, embeddings, labels = head_and_batch(margin)
    plain, _, _ = head_and_batch(margin)
    plain.weight.data = plain.weight.data.bfloat16().float()  # the only thing a cast may round
    head = CASTS[cast](head)
    if "half" in cast or "parent" in cast:
        plain.weight.data = head.weight.data.float()
    assert head.weight.dtype != torch.float32
    for _ in range(20):
        with torch.no_grad():
            head(embeddings, labels)
            plain(embeddings, labels)
    for name in margin.initial_state():
        assert head.get_buffer(name).dtype == torch.float32
        torch.testing.assert_close(head.get_buffer(name), plain.get_buffer(name))


@pytest.mark.parametrize("margin", [CurricularFace(), AdaFace(), ArcFace()], ids=str)
def test_a_head_made_on_the_meta_device(margin):
    """As FSDP makes it: no memory at first, and all of it set by reset_parameters."""
    with torch.device("meta"):
        head = MarginHead(16, 30, margin)
    assert all(tensor.is_meta for tensor in head.state_dict().values())
    head.to_empty(device="cpu")
    for tensor in head.state_dict().values():
        tensor.fill_(torch.nan)
    embeddings, _, labels = inputs(8, 30, 16)
    with pytest.raises(ValueError, match="weight" if margin == ArcFace() else "reset_parameters"):
        head(embeddings, labels)
    torch.manual_seed(0)
    head.reset_parameters()
    torch.manual_seed(0)
    expected = MarginHead(16, 30, margin)
    assert head.state_dict().keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(head.state_dict()[name], value)


def test_reset_parameters_forgets_the_training():
    head, embeddings, labels = head_and_batch()
    before = head.weight.detach().clone()
    head(embeddings, labels)
    assert head.t != 0
    head.reset_parameters()
    assert head.t == 0
    assert not torch.equal(head.weight, before)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_with_fused_centres_draws_the_same_classes_twice(
    use_reentrant, monkeypatch
):
    """Also where the first forward runs without gradients, and so has no step to make."""
    drawn, draw = [], sampling.draw
    monkeypatch.setattr(sampling, "draw", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    head = MarginHead(8, 60, sample_rate=0.5, backend="chunked")
    head.fuse(torch.optim.SGD(head.parameters(), lr=0.1))
    x, labels = torch.randn(6, 8, requires_grad=True), torch.arange(6)
    loss = checkpoint(lambda x: head(x, labels).loss, x, use_reentrant=use_reentrant)
    loss.backward()
    assert len(drawn) == 2
    assert torch.equal(*drawn)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_updates_the_state_once(use_reentrant):
    """It runs the forward again inside the backward: on the same state, and without moving it."""
    plain, embeddings, labels = head_and_batch()
    out = plain(embeddings, labels)
    out.loss.backward()
    expected = embeddings.grad.clone()
    embeddings.grad = None

    head, _, _ = head_and_batch()
    loss = checkpoint(lambda x: head(x, labels).loss, embeddings, use_reentrant=use_reentrant)
    loss.backward()
    assert torch.equal(head.t, plain.t)
    assert torch.equal(loss, out.loss)
    assert torch.equal(embeddings.grad, expected)
    assert torch.equal(head.weight.grad, plain.weight.grad)
