"""Right before fast: losses and gradients against float64, for every provider that is timed."""

from typing import NamedTuple

import torch
from torch import Tensor

from fusedface.bench.case import Case, Inputs
from fusedface.bench.peers import Loss
from fusedface.bench.providers import TOLERANCES, Provider
from fusedface.kernels import margin_loss


class Errors(NamedTuple):
    """Relative errors: of the mean loss, and of each gradient by its norm."""

    loss: float
    embeddings: float
    weight: float


class Truth(NamedTuple):
    """The mean loss and its gradients; that of the weight is rounded to float32."""

    loss: float
    embeddings: Tensor
    weight: Tensor


class WrongResultError(ValueError):
    """A provider computes something else than it says; `errors` are by how much."""

    def __init__(self, message: str, errors: Errors) -> None:
        super().__init__(message)
        self.errors = errors


def truth(provider: Provider, case: Case, inputs: Inputs) -> Truth:
    """What the provider should compute, in float64.

    By our chunked backend: it needs no (B, C) numbers, and the tests hold it against an oracle that
    shares no code with it.
    """
    embeddings, weight, labels = (tensor.detach() for tensor in inputs)
    x, w = embeddings.double().requires_grad_(), weight.requires_grad_()
    needs_t = "t" in provider.margin.initial_state()
    state = {"t": x.new_tensor(case.t)} if needs_t else None
    out = margin_loss(
        x, w, labels, provider.margin, state=state, backend="chunked",
        target_gradient=provider.target_gradient,
    )  # fmt: skip
    return Truth(out.loss.item(), *torch.autograd.grad(out.loss, (x, w)))


def check(provider: Provider, loss: Loss, inputs: Inputs, expected: Truth) -> Errors:
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
    allowed = TOLERANCES[provider.precision]
    for name, error, limit in (
        ("loss", errors.loss, allowed.loss),
        ("gradient of the embeddings", errors.embeddings, allowed.gradient),
        ("gradient of the class centres", errors.weight, allowed.gradient),
    ):
        if not error <= limit:  # NaN too
            raise WrongResultError(f"wrong {name}: off by {error:.1e}, not timed", errors)
    return errors


def _distance(got: Tensor | None, expected: Tensor, rows: int = 2**16) -> float:
    """|got - expected| / |expected|, some rows at a time: they may be gigabytes."""
    if got is None:
        return float("nan")
    pairs = zip(got.split(rows), expected.split(rows), strict=True)
    off = sum((g.double() - e.double()).square().sum() for g, e in pairs)
    length = sum(e.double().square().sum() for e in expected.split(rows))
    return float((torch.as_tensor(off) / torch.as_tensor(length)).sqrt())
