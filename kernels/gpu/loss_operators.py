"""The operators of a whole margin loss as torch sees them: schemas, shapes without data, the backward.

Defined with `torch.library.Library` and a backward written by hand: an eager call costs the host a seventh
of what `custom_op` does. `fusedface::margin_loss` updates the state in place. Opaque to torch.compile.
"""

# ruff: noqa: ARG001  (shapes without data take all arguments of their operator)

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusedface.kernels.gpu import layout, memory
from fusedface.kernels.gpu.arguments import Numbers
from fusedface.kernels.interface.whole import Call


class Kept(NamedTuple):
    """The tensors that the forward keeps for the backward."""

    rows: Tensor  # float32: `memory.Rows`
    passes: Tensor  # bytes: `memory.Passes`
    w: Tensor  # unit class centres and inverse lengths (`UnitRows`)
    inverse_w: Tensor


class Results(NamedTuple):
    """The results of the forward, followed by all of `Kept`; float32 by default."""

    loss: Tensor  # 0-d
    per_sample: Tensor  # (B,)
    target_cosine: Tensor  # (B,)
    fits: Tensor  # 0-d bool: every label is a class or ignored


NUM_RESULTS, NUM_KEPT = len(Results._fields), len(Kept._fields)


def numbers_of(call: Call) -> Numbers:
    """The numbers of a call that the pass over the classes takes."""
    return Numbers(
        call.scale, call.square, call.constant, call.precision, call.reweights, call.linear_bound
    )


def _of(record: type) -> str:
    """Fields of a record as a schema has them."""
    return ", ".join(f"{kind.__name__} {name}" for name, kind in record.__annotations__.items())


def _tensors(num: int) -> str:
    return f"({', '.join(['Tensor'] * num)})"


_KEPT = ", ".join(f"Tensor {name}" for name in Kept._fields)
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
_library = torch.library.Library("fusedface", "FRAGMENT")
_library.define(
    f"margin_loss(Tensor embeddings, Tensor weight, Tensor labels, Tensor(a!)[] state, "
    f"Tensor? class_margins, {_of(Call)}, bool needs_embeddings) -> {_tensors(NUM_RESULTS + NUM_KEPT)}",
    tags=_TAGS,
)
_library.define(
    f"margin_loss_backward(Tensor embeddings, Tensor weight, {_KEPT}, "
    f"Tensor? d_loss, Tensor? d_losses, {_of(Call)}, "
    f"bool needs_embeddings, bool needs_weight) -> {_tensors(2)}",
    tags=_TAGS,
)


def _fake_forward(
    embeddings: Tensor, weight: Tensor, labels: Tensor, state: list[Tensor],
    class_margins: Tensor | None, *scalars: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    *others, needs_embeddings = scalars
    call = Call(*others)
    (num_rows, dim), num_classes = embeddings.shape, len(weight)
    with_direction = memory.has_direction(dim, call, needs_embeddings)
    padded_classes = layout.padded_classes(num_classes)
    new = embeddings.new_empty
    results = Results(
        loss=new((), dtype=torch.float32),
        per_sample=new(num_rows, dtype=torch.float32),
        target_cosine=new(num_rows, dtype=torch.float32),
        fits=new((), dtype=torch.bool),
    )
    kept = Kept(
        rows=new(memory.num_of_rows(num_rows, call.keep), dtype=torch.float32),
        passes=new(
            memory.bytes_of_passes(num_rows, num_classes, dim, call, with_direction, with_w=False),
            dtype=torch.uint8,
        ),
        w=new(
            (padded_classes, layout.padded_dim(dim, call.precision)),
            dtype=layout.operands(call.precision).dtype,
        ),
        inverse_w=new(padded_classes, dtype=torch.float32),
    )
    return *results, *kept


def _fake_backward(embeddings: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    needs_embeddings, needs_weight = others[-2:]
    (num_rows, dim), num_classes = embeddings.shape, len(weight)
    return (
        embeddings.new_empty(num_rows if needs_embeddings else 0, dim),
        weight.new_empty(num_classes if needs_weight else 0, dim),
    )


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, embeddings: Tensor, weight: Tensor, others: tuple[Any, ...]
    ) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            results = _margin_loss(embeddings, weight, *others)
        ctx.set_materialize_grads(
            False
        )  # a gradient of zeros for the unit rows would be of their size
        ctx.mark_non_differentiable(*results[2:])
        ctx.save_for_backward(embeddings, weight, *results[NUM_RESULTS:])
        ctx.call = Call(*others[3:-1])
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        needs_embeddings, needs_weight, _ = ctx.needs_input_grad
        d_embeddings, d_weight = _margin_loss_backward(
            *ctx.saved_tensors, *grad_outputs[:2], *ctx.call, needs_embeddings, needs_weight
        )  # fmt: skip
        return d_embeddings if needs_embeddings else None, d_weight if needs_weight else None, None


def _autograd(embeddings: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, ...]:
    if torch.is_grad_enabled() and (embeddings.requires_grad or weight.requires_grad):
        return _Loss.apply(embeddings, weight, others)
    with torch._C._AutoDispatchBelowAutograd():
        return _margin_loss(embeddings, weight, *others)


def implement(
    forward: Callable[..., tuple[Tensor, ...]], backward: Callable[..., tuple[Tensor, Tensor]]
) -> Callable[..., tuple[Tensor, ...]]:
    """Register the implementations of the operators; returns `fusedface::margin_loss`."""
    for name, run, fake in (
        ("margin_loss", forward, _fake_forward),
        ("margin_loss_backward", backward, _fake_backward),
    ):
        _library.impl(name, run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"fusedface::{name}", fake, lib=_library)
    _library.impl("margin_loss", _autograd, "Autograd")
    return _margin_loss


_margin_loss = torch.ops.fusedface.margin_loss.default
_margin_loss_backward = torch.ops.fusedface.margin_loss_backward.default
