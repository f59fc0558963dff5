"""Correctness check of every head that is timed: losses and gradients against float64."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fusedface.bench.case import Case, Inputs
from fusedface.bench.failures import Errors, WrongResultError
from fusedface.bench.heads.loss import Loss
from fusedface.kernels import margin_loss

if TYPE_CHECKING:
    from fusedface.bench.heads.table import Head


class Tolerance(NamedTuple):
    """Largest relative errors of the mean loss and of the gradients' norms."""

    loss: float
    gradient: float


# A bfloat16 cosine has an error up to 1/512, a logit at s = 64 up to 1/8; in tf32 and float16 up to 1/64.
# In float32, published heads lose digits in different ways; a wrong formula has a far larger error.
TOLERANCES: dict[str, Tolerance] = {
    "float32": Tolerance(1e-4, 5e-3),
    "tf32": Tolerance(2e-3, 2e-2),
    "float16": Tolerance(2e-3, 2e-2),
    "bfloat16": Tolerance(1e-2, 0.1),
}


class Truth(NamedTuple):
    """The exact mean loss and its gradients; the weight's gradient is rounded to float32."""

    loss: float
    embeddings: Tensor
    weight: Tensor


def truth(head: "Head", case: Case, inputs: Inputs) -> Truth:
    """The exact result of the head's loss, in float64.

    Our chunked backend computes it, because it holds no (B, C) matrix. The tests check that backend
    against an oracle that shares no code with it.
    """
    embeddings, weight, labels = (tensor.detach() for tensor in inputs)
    x, w = embeddings.double().requires_grad_(), weight.requires_grad_()
    state = {name: x.new_tensor(case.t) for name in head.margin.initial_state()}
    out = margin_loss(
        x, w, labels, head.margin, state=state, backend="chunked",
        target_gradient=head.target_gradient,
    )  # fmt: skip
    return Truth(out.loss.item(), *torch.autograd.grad(out.loss, (x, w)))


def check(head: "Head", loss: Loss, inputs: Inputs, expected: Truth) -> Errors:
    """Errors of loss and gradients.

    Raises:
        WrongResultError: they are larger than the precision of the products explains.
    """
    embeddings, weight, _ = inputs
    value = loss(*inputs)
    value.backward()
    errors = Errors(
        abs(value.item() - expected.loss) / abs(expected.loss),
        _distance(embeddings.grad, expected.embeddings),
        _distance(weight.grad, expected.weight),
    )
    embeddings.grad = weight.grad = None
    allowed = TOLERANCES[head.precision]
    for name, error, limit in (
        ("loss", errors.loss, allowed.loss),
        ("gradient of the embeddings", errors.embeddings, allowed.gradient),
        ("gradient of the class centres", errors.weight, allowed.gradient),
    ):
        if not error <= limit:  # NaN too
            raise WrongResultError(f"wrong {name}: off by {error:.1e}, not timed", errors)
    return errors


def _distance(got: Tensor | None, expected: Tensor, rows: int = 2**16) -> float:
    """|got - expected| / |expected|, some rows at a time, because the tensors may have gigabytes."""
    if got is None:
        return float("nan")
    pairs = zip(got.split(rows), expected.split(rows), strict=True)
    off = sum((g.double() - e.double()).square().sum() for g, e in pairs)
    length = sum(e.double().square().sum() for e in expected.split(rows))
    return float((torch.as_tensor(off) / torch.as_tensor(length)).sqrt())
