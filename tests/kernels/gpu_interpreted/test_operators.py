"""The operators as torch sees them: fake kernels, autograd, and a training step in one graph."""

import pytest
import torch
import torch.fx.experimental.proxy_tensor
from margin_oracle import inputs

from fusedface.kernels import LDAM, AdaFace, CurricularFace, HeadOptions, MVArc, checks
from fusedface.kernels.gpu import keys, primitive, whole
from fusedface.kernels.gpu.loss_operators import NUM_RESULTS
from fusedface.kernels.interface.whole import Call
from fusedface.models import MarginHead


def arguments(precision, dim, *, needs_embeddings=True, num_rows=6, num_classes=40):
    embeddings, weight, labels = inputs(num_rows, num_classes, dim)
    threshold, linear = torch.zeros(num_rows), torch.full((), 0.3)
    return (
        embeddings.requires_grad_(needs_embeddings), weight.requires_grad_(), labels, threshold, linear,
        32.0, 1.0, 0.0, precision, True, 1.0, needs_embeddings,
    )  # fmt: skip


# Each two of them together once.
@pytest.mark.parametrize(
    ("precision", "dim", "needs_embeddings"),
    [
        ("float16", 16, True),
        ("float32", 16, False),
        ("float16", 300, False),
        ("float32", 300, True),
    ],
)
def test_opcheck(precision, dim, needs_embeddings):
    """Schema, fake kernel and autograd registration, ahead-of-time tracing included."""
    torch.use_deterministic_algorithms(False)  # NaN in fresh memory is not what is compared here
    values = arguments(precision, dim, needs_embeddings=needs_embeddings)
    torch.library.opcheck(torch.ops.fusedface.cosine_lse.default, values)


@pytest.mark.parametrize("dim", [16, 300])
def test_opcheck_of_the_backward(dim):
    values = arguments("float16", dim)
    out = torch.ops.fusedface.cosine_lse(*values)
    saved = [tensor.detach() for tensor in (out[1], *values[:5], *out[3:])]
    d_cos_y, d_lse = torch.ones(6), torch.ones(6)
    for needs in ((True, True), (False, True), (True, False)):
        torch.library.opcheck(
            torch.ops.fusedface.cosine_lse_backward.default,
            (*saved, d_cos_y, d_lse, *values[5:11], *needs),
            test_utils=("test_schema", "test_faketensor"),
        )


def whole_arguments(margin, *, needs_embeddings, dim=16):
    embeddings, weight, labels = inputs(6, 40, dim)
    state = [torch.tensor(value) for value in margin.initial_state().values()]
    call = HeadOptions(margin=margin).call(training=True, precision="float32")
    return (
        embeddings.requires_grad_(needs_embeddings), weight.requires_grad_(), labels, state,
        margin.class_margins(embeddings.device), *call, needs_embeddings,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("margin", "needs_embeddings"),
    [(AdaFace(), True), (MVArc(), False), (LDAM(class_counts=(7,) * 40), True)],
    ids=str,
)
def test_opcheck_of_a_whole_loss(margin, needs_embeddings):
    """Its state is written to, which the schema says. Nobody writes to the padding of what is saved."""
    torch.library.opcheck(
        whole.loss._operator,
        whole_arguments(margin, needs_embeddings=needs_embeddings),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def test_opcheck_of_the_backward_of_a_whole_loss():
    values = whole_arguments(CurricularFace(), needs_embeddings=True)
    out = whole.loss._operator(*values)
    saved = [values[0], values[1], *out[NUM_RESULTS:]]
    call = Call(*values[5:-1])
    for d_loss, d_losses in ((torch.ones(()), None), (None, torch.ones(6))):
        torch.library.opcheck(
            torch.ops.fusedface.margin_loss_backward.default,
            (
                *(t.detach() for t in saved),
                d_loss,
                d_losses,
                *call,
                True,
                True,
            ),
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.parametrize("margin", [CurricularFace(), MVArc()], ids=lambda m: m.name)
def test_a_training_step_is_one_graph(margin, monkeypatch):
    """fullgraph=True with the checks as they are on a GPU, where they read no values."""
    monkeypatch.setattr(checks, "check_values", lambda *args: None)
    monkeypatch.setattr(checks, "check_centres", lambda *args: None)
    embeddings, weight, labels = inputs(6, 40, 16)
    results = []
    for compiled in (False, True):
        head = MarginHead(16, 40, margin, backend="triton", precision="float16")
        with torch.no_grad():
            head.weight.copy_(weight)
        x = embeddings.clone().requires_grad_()
        step = torch.compile(head, backend="aot_eager", fullgraph=True) if compiled else head
        for _ in range(2):  # t moves on
            out = step(x, labels)
        out.loss.backward()
        results.append([out.loss.detach(), x.grad, head.weight.grad, *head.buffers()])
    torch.testing.assert_close(*results)


def test_opcheck_of_the_keys_of_classes():
    seed = torch.tensor(5)
    torch.library.opcheck(torch.ops.fusedface.class_keys.default, (seed, 1030, 7))


def test_a_traced_sample_is_drawn_again_with_another_seed():
    """Keys made outside of the operators would be constants of the graph, or memory that nobody fills."""
    traced = torch.fx.experimental.proxy_tensor.make_fx(lambda seed: keys.keys(seed, 40, 0))(
        torch.tensor(1)
    )
    assert torch.equal(traced(torch.tensor(2)), keys.keys(torch.tensor(2), 40, 0))


def test_registered_names():
    assert primitive.cosine_lse.__module__ == "fusedface.kernels.gpu.primitive"
    assert torch.ops.fusedface.cosine_lse.default._schema.name == "fusedface::cosine_lse"
