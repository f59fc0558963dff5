"""The operators of torch.library, and the primitive on top of them.

`fusedface::cosine_lse` and `fusedface::cosine_lse_backward` are opaque to torch.compile, have shapes
without data (`register_fake`), and start no work on the host that waits for the device.
"""

# ruff: noqa: ARG001  (shapes without data take all arguments of their operator)

from typing import Any

import torch
from torch import Tensor

from fusedface.kernels.gpu import backward, forward, layout, learning
from fusedface.kernels.gpu.arguments import Numbers, UnitRows, check_operands
from fusedface.kernels.gpu.backward import Saved
from fusedface.kernels.interface.negatives import NegativeStats
from fusedface.kernels.interface.primitive import CosineLse, Spec

NUM_TENSORS = 5  # that `fusedface::cosine_lse` takes, before its numbers and `needs_embeddings`


def cosine_lse(
    embeddings: Tensor, weight: Tensor, labels: Tensor, threshold: Tensor, spec: Spec
) -> CosineLse:
    """See `Primitive`. Not differentiable twice.

    Raises:
        TypeError: an operand is float64, which these kernels do not compute in.
        ValueError: the tensors are not on a CUDA device.
    """
    check_operands(embeddings, weight)
    hard = spec.hard
    # Always a 0-d tensor, so that the kernels have one signature and t stays on the device.
    if isinstance(hard.linear, Tensor):
        linear = hard.linear.detach().float()
        reweights, linear_bound = True, 1.0
    else:
        linear = embeddings.new_full((), hard.linear, dtype=torch.float32)
        reweights = (hard.square, hard.linear, hard.constant) != (0.0, 1.0, 0.0)
        linear_bound = abs(hard.linear)
    threshold = threshold.float().contiguous()
    if spec.update is not None and torch.is_grad_enabled() and weight.requires_grad:
        numbers = Numbers(
            spec.scale, hard.square, hard.constant, spec.precision, reweights, linear_bound
        )
        cos_y, lse, stats = learning.cosine_lse(
            embeddings, weight, labels, threshold, linear, numbers, spec.update
        )
        return CosineLse(cos_y, lse, NegativeStats(*stats.unbind()))
    needs_embeddings = torch.is_grad_enabled() and embeddings.requires_grad
    cos_y, lse, stats, *_ = _forward(
        embeddings, weight, labels, threshold, linear,
        spec.scale, hard.square, hard.constant, spec.precision, reweights, linear_bound,
        needs_embeddings,
    )  # fmt: skip
    return CosineLse(cos_y, lse, NegativeStats(*stats.unbind()))


def target_cosine(embeddings: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """See `TargetCosine`; one kernel.

    Raises:
        TypeError, ValueError: as `cosine_lse`.
    """
    check_operands(embeddings, weight)
    return _target_cosine(embeddings, weight, labels)


@torch.library.custom_op("fusedface::target_cosine", mutates_args=())
def _target_cosine(embeddings: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return forward.target_cosine(embeddings, weight, labels.contiguous())


@_target_cosine.register_fake
def _(embeddings: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    cos_y = embeddings.new_empty(len(embeddings), dtype=torch.float32)
    return cos_y, torch.empty_like(cos_y)


@torch.library.custom_op("fusedface::cosine_lse", mutates_args=())
def _forward(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    threshold: Tensor,
    linear: Tensor,
    scale: float,
    square: float,
    constant: float,
    precision: str,
    reweights: bool,
    linear_bound: float,
    needs_embeddings: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """cos_y, lse, statistics, direction, then unit rows and inverse lengths of both; flags of tiles."""
    numbers = Numbers(scale, square, constant, precision, reweights, linear_bound)
    out = forward.forward(
        embeddings, weight, labels.contiguous(), threshold, linear, numbers, needs_embeddings
    )
    x, w = out.x, out.w
    return (
        out.cos_y, out.lse, out.stats, out.direction,
        x.rows, x.inverse, w.rows, w.inverse, out.flags,
    )  # fmt: skip


@_forward.register_fake
def _(
    embeddings: Tensor, weight: Tensor, labels: Tensor, threshold: Tensor, linear: Tensor,
    scale: float, square: float, constant: float, precision: str, reweights: bool,
    linear_bound: float, needs_embeddings: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    num_rows, dim = embeddings.shape
    operands = layout.operands(precision)
    padded = layout.padded_dim(dim, precision)
    has_direction = layout.has_direction(dim, precision, needs_embeddings)
    row = embeddings.new_empty(num_rows, dtype=torch.float32)
    unit_rows, unit_classes = layout.padded_rows(num_rows), layout.padded_classes(len(weight))
    flags = layout.flags_shape(len(embeddings), len(weight))
    return (
        row, torch.empty_like(row), row.new_empty(5, num_rows),
        row.new_empty(num_rows if has_direction else 0, padded),
        row.new_empty(unit_rows, padded, dtype=operands.dtype), row.new_empty(unit_rows),
        row.new_empty(unit_classes, padded, dtype=operands.dtype), row.new_empty(unit_classes),
        row.new_empty(flags, dtype=torch.int8),
    )  # fmt: skip


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)  # a gradient of zeros for the unit rows would be of their size
    tensors, (*numbers, _) = inputs[:NUM_TENSORS], inputs[NUM_TENSORS:]
    _, lse, stats, *kept = output
    ctx.mark_non_differentiable(stats, *kept)
    ctx.save_for_backward(lse, *tensors, *kept)
    ctx.numbers = numbers


def _autograd(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
    lse, *saved = ctx.saved_tensors
    d_cos_y, d_lse = (
        torch.zeros_like(lse) if grad is None else grad.contiguous() for grad in grad_outputs[:2]
    )
    needs_embeddings, needs_weight = ctx.needs_input_grad[:2]
    d_embeddings, d_weight = _backward(
        lse, *saved, d_cos_y, d_lse, *ctx.numbers, needs_embeddings, needs_weight
    )
    return (
        d_embeddings if needs_embeddings else None,
        d_weight if needs_weight else None,
        *[None] * (NUM_TENSORS - 2 + len(ctx.numbers) + 1),
    )


@torch.library.custom_op("fusedface::cosine_lse_backward", mutates_args=())
def _backward(
    lse: Tensor,
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    threshold: Tensor,
    linear: Tensor,
    direction: Tensor,
    x: Tensor,
    inverse_x: Tensor,
    w: Tensor,
    inverse_w: Tensor,
    flags: Tensor,
    d_cos_y: Tensor,
    d_lse: Tensor,
    scale: float,
    square: float,
    constant: float,
    precision: str,
    reweights: bool,
    linear_bound: float,
    needs_embeddings: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients in embeddings and weight, empty where not needed."""
    saved = Saved(
        embeddings, weight, labels.contiguous(), linear, direction,
        UnitRows(x, inverse_x), UnitRows(w, inverse_w), flags,
    )  # fmt: skip
    numbers = Numbers(scale, square, constant, precision, reweights, linear_bound)
    return backward.backward(
        saved, threshold, lse, d_cos_y, d_lse, numbers, needs_embeddings, needs_weight
    )


@_backward.register_fake
def _(
    lse: Tensor, embeddings: Tensor, weight: Tensor, labels: Tensor, threshold: Tensor,
    linear: Tensor, direction: Tensor, x: Tensor, inverse_x: Tensor, w: Tensor, inverse_w: Tensor,
    flags: Tensor, d_cos_y: Tensor, d_lse: Tensor, scale: float, square: float, constant: float,
    precision: str, reweights: bool, linear_bound: float, needs_embeddings: bool, needs_weight: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    (num_rows, dim), num_classes = embeddings.shape, len(weight)
    return (
        embeddings.new_empty(num_rows if needs_embeddings else 0, dim),
        weight.new_empty(num_classes if needs_weight else 0, dim),
    )


_forward.register_autograd(_autograd, setup_context=_setup_context)
