"""A whole step on tensors without data: no value is read, nothing is copied from the host.

What cannot be computed without values on the `meta` device is what would wait for a GPU.
"""

import contextlib

import pytest
import torch
from functorch.compile import make_boxed_func
from margin_oracle import all_margins, without_form
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode
from waiting import Watch

from fusedface.kernels import SelfPaced
from fusedface.kernels.margins import form_of
from fusedface.models import MarginHead

triton = pytest.importorskip("triton", reason="Triton is there only on Linux")
from own_operators import IMPLEMENTATIONS  # noqa: E402

from fusedface.kernels.gpu import choice  # noqa: E402

MARGINS = all_margins()
OWN = "magface of one's own"
MARGINS[OWN] = without_form(MARGINS["magface"])


class Operators(TorchDispatchMode):
    """Records operators that compute, those of the backward included; not views, nor fresh memory.

    With `inside`, what our own operators call is recorded in their place.
    """

    def __init__(self, inside=False):
        super().__init__()
        self.called, self.inside = [], inside

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if self.inside and func.namespace == "fusedface":
            with self:
                return IMPLEMENTATIONS[name](*args)
        aliases = [returned.alias_info for returned in func._schema.returns]
        view = any(alias is not None and not alias.is_write for alias in aliases)
        if not view and "empty" not in name:
            self.called.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def _no_autocast(monkeypatch):
    """It knows no `meta` device."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())


def head_and_batch(margin, dim=128, num_rows=32, num_classes=1000, **options):
    head = MarginHead(
        dim, num_classes, margin, backend="triton", precision="bfloat16", device="meta", **options
    )
    embeddings = torch.empty(num_rows, dim, device="meta", requires_grad=True)
    return head, embeddings, torch.empty(num_rows, dtype=torch.int64, device="meta")


@pytest.mark.parametrize("options", [{}, {"focal_gamma": 1.0}, {"reduction": "none"}], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dim", [128, 512])
@pytest.mark.parametrize("name", MARGINS)
@pytest.mark.usefixtures("_no_autocast")
def test_a_step_never_waits(name, dim, training, options):
    head, x, labels = head_and_batch(MARGINS[name], dim, **options)
    head.train(training)
    head(x, labels)  # a margin of each class is copied to the device once, in the first step
    with Watch() as watch, Operators() as operators:
        head(x, labels).loss.sum().backward()
    assert watch.waiting == []
    assert not {"_local_scalar_dense", "nonzero", "masked_select"} & set(operators.called)
    ours = "margin_loss" if form_of(MARGINS[name]) else "cosine_lse"
    assert {ours, f"{ours}_backward", "_assert_async"} <= set(operators.called)
    assert x.grad.shape == x.shape
    assert head.weight.grad.shape == head.weight.shape


@pytest.mark.parametrize("name", ["arcface", "curricularface", "magface", "ldam", OWN])
@pytest.mark.usefixtures("_no_autocast")
def test_a_compiled_step_keeps_the_check_of_the_labels(name):
    """One graph, the assertion that a GPU makes included."""
    graphs = []

    def compiler(graph, inputs):
        graphs.append(graph.code)
        return make_boxed_func(graph.forward)

    head, embeddings, labels = head_and_batch(MARGINS[name])
    backend = aot_autograd(fw_compiler=compiler, bw_compiler=compiler)
    torch.compile(head, backend=backend, fullgraph=True)(embeddings, labels).loss.backward()
    forward, backward = graphs
    ours = "cosine_lse" if name == OWN else "margin_loss"
    assert f"fusedface.{ours}" in forward
    assert "_assert_async" in forward
    assert f"fusedface.{ours}_backward" in backward


# In eager mode each is started by the host: most of a step with few classes. The goal is 12.
LONG_ROWS, TWO_CHUNKS = {"dim": 512}, {"dim": 512, "num_rows": 512, "num_classes": 85_742}
LAUNCHES = [
    ({}, 9),
    ({"focal_gamma": 1.0, "ignore_index": 7}, 9),
    ({"weighting": SelfPaced()}, 9),
    ({"reduction": "none"}, 10),  # the factors of the backward depend on every row's gradient
    ({"sample_rate": 0.5}, 30),
    (LONG_ROWS, 10),
    (TWO_CHUNKS, 12),
    (TWO_CHUNKS | {"keep_exponentials": True}, 10),
]
# Of a margin without a form (margins/form.py), whose T and penalty are PyTorch's on B numbers.
MOST_OF_THE_PLAIN_PATH = {OWN: 205}


@pytest.fixture
def started(monkeypatch):
    """Names of the Triton kernels that are started; nothing is compiled."""
    names = []

    def run(kernel, *args, grid, warmup, **options):
        if not warmup:
            names.append(kernel.__name__)

    monkeypatch.setattr(triton.JITFunction, "run", run)
    choice.forget()
    yield names
    choice.forget()


@pytest.mark.parametrize(("options", "most"), LAUNCHES, ids=str)
@pytest.mark.parametrize("name", MARGINS)
@pytest.mark.usefixtures("_no_autocast")
def test_a_step_is_few_launches(name, options, most, started):
    """Ours and PyTorch's together, in both schedules; the table is in the output of `pytest -rP`."""
    if name == OWN and "keep_exponentials" in options:
        pytest.skip("only a margin with a form can keep them")
    head, x, labels = head_and_batch(MARGINS[name], **options)
    like_loss = torch.empty((32,) if options.get("reduction") == "none" else (), device="meta")
    head(x, labels)  # a margin of each class is copied to the device once, in the first step
    started.clear()
    with Operators(inside=True) as operators:
        head(x, labels).loss.backward(torch.ones_like(like_loss))
    total = len(started) + len(operators.called)
    print(
        f"{name:22} {total:3} launches: {len(started)} of ours, {len(operators.called)} of PyTorch's"
    )
    print(f"{'':22} {' '.join(started)}; {' '.join(operators.called)}")
    passes = {"lse_kernel"}
    if "dim" not in options:
        passes = {"flash_kernel", "centre_gradient_kernel"}
    assert passes | {"embedding_gradient_kernel"} <= set(started)
    assert "_assert_async" in operators.called
    assert total <= MOST_OF_THE_PLAIN_PATH.get(name, most)


def test_the_watch_sees_what_waits():
    numbers = torch.empty(3, device="meta")
    with Watch() as watch:
        numbers.new_tensor(1.0)
        torch.tensor(1.0, device="meta")
        with pytest.raises(RuntimeError):
            numbers.sum().item()
        with pytest.raises((RuntimeError, NotImplementedError)):
            numbers[numbers > 0]
    assert watch.waiting == ["new_tensor", "tensor", "item", "__getitem__"]
