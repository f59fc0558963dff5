"""A whole margin loss as functional.py calls it: directly, or by torch's dispatcher where somebody watches.

`fusedface::margin_loss` takes some thirty arguments through the dispatcher, and autograd watches each of
its results. Where nobody traces or counts operators, an `autograd.Function` with two results calls the same
functions, and the host has less to do.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusedface.kernels.gpu import choice, layout, loss_operators, memory, slots
from fusedface.kernels.gpu.arguments import check_operands
from fusedface.kernels.gpu.loss_operators import (
    NUM_KEPT,
    NUM_RESULTS,
    numbers_of,
)
from fusedface.kernels.interface.negatives import modulation_of
from fusedface.kernels.interface.whole import Call, Rest, WholeLoss


class Work(NamedTuple):
    """The functions that compute a loss: those of whole.py."""

    forward: Callable[..., tuple[Tensor, ...]]
    backward: Callable[..., tuple[Tensor, Tensor]]
    statistics: Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor, Tensor]]


def _missing(*_: object) -> Any:
    raise RuntimeError("fusedface.kernels.gpu.whole has to be imported first")


work = Work(_missing, _missing, _missing)  # whole.py sets it, which this module does not import
LONGEST_KEPT = 512  # D, of a tile of whole rows in registers (kept.py)


def margin_loss(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    state: list[Tensor],
    class_margins: Tensor | None,
    call: Call,
) -> WholeLoss:
    """See `interface.whole.Whole`. Not differentiable twice.

    Raises:
        TypeError, ValueError: as `primitive.cosine_lse`.
        ValueError: `call.keep`, but exponentials cannot be kept for the backward.
    """
    check_operands(embeddings, weight)
    has_gradients = torch.is_grad_enabled()
    needs_embeddings = has_gradients and embeddings.requires_grad
    needs_gradients = needs_embeddings or (has_gradients and weight.requires_grad)
    if call.keep:
        if needs_gradients:
            check_keep(call, *weight.shape)
        else:
            call = call._replace(keep=False)
    is_direct = _is_direct(embeddings, weight)
    if not is_direct:
        tensors = _operator(
            embeddings, weight, labels, state, class_margins, *call, needs_embeddings
        )
    elif needs_gradients:
        tensors: Any = []
        others = (labels, state, class_margins, call, needs_embeddings)
        tensors[:2] = _apply(embeddings, weight, others, tensors)
    else:
        tensors = work.forward(
            embeddings, weight, labels, state, class_margins, call, needs_embeddings
        )
    # Of what is kept only the rows, so that the memory of a step does not outlive it.
    loss, per_sample, target_cosine, fits, rows, *_ = tensors
    rest = functools.partial(_rest, rows, target_cosine, len(state), call.keep)
    if is_direct and (key := (weight.device, len(labels), call.keep)) not in choice.decided.readied:
        rest()  # loads its kernel: a CUDA graph has the statistics in it, and nothing is loaded by then
        choice.decided.readied.add(key)
    return WholeLoss(loss, per_sample, target_cosine, fits, rest)


def _rest(memory_of_rows: Tensor, target_cosine: Tensor, num_states: int, keep: bool) -> Rest:
    numbers, _, _, stats = memory.rows_of(memory_of_rows, len(target_cosine), keep)
    max_cosine = stats[0]
    is_watched = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack()
    if is_watched or not _is_plain(memory_of_rows):
        modulation, num_hard = modulation_of(*stats[1:].unbind()), stats[1].long()
        correct = target_cosine > max_cosine
    else:
        extremes, num_hard, correct = work.statistics(memory_of_rows, target_cosine, keep)
        modulation = extremes.unbind()
    first = slots.STATE.value
    used = numbers.unbind()[first : first + num_states]
    return Rest(max_cosine, correct, num_hard, modulation, used)


def check_keep(call: Call, num_classes: int, dim: int) -> None:
    """Raise ValueError unless a forward can keep exponentials: in bfloat16, with one reference."""
    option = "keep_exponentials=True"
    if call.precision != "bfloat16":
        raise ValueError(
            f"{option} needs products in bfloat16, got {call.precision}: use precision='bfloat16' or "
            "autocast, or leave it out"
        )
    if dim > LONGEST_KEPT:
        raise ValueError(f"{option} needs embeddings of at most {LONGEST_KEPT} numbers, got {dim}")
    most = (
        layout.LARGEST_OFFSET
        // layout.ROW_MULTIPLE
        // layout.CLASS_MULTIPLE
        * layout.CLASS_MULTIPLE
    )
    if num_classes > most:
        raise ValueError(
            f"{option} needs at most {most:,} classes, got {num_classes:,}: leave it out"
        )
    if not numbers_of(call).reference(num_classes).fixed:
        raise ValueError(
            f"{option} needs a smaller scale, or fewer classes: at s={call.scale:g} with {num_classes:,} "
            "classes the exponentials of one row do not fit the range of its others"
        )


def _is_direct(embeddings: Tensor, weight: Tensor) -> bool:
    """Whether the operator would do nothing more: tensors with data, no compiler, mode or transform."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._functorch.peek_interpreter_stack() is None  # pyright: ignore[reportAttributeAccessIssue]
        and not torch._C._len_torch_dispatch_stack()
        and _is_plain(embeddings)
        and _is_plain(weight)
    )


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in _PLAIN and not tensor.is_meta


_PLAIN = (Tensor, torch.nn.Parameter)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, embeddings: Tensor, weight: Tensor, others: tuple[Any, ...], made: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        made += work.forward(embeddings, weight, *others)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(embeddings, weight, *made[NUM_RESULTS:])
        ctx.call = others[3]
        return made[0], made[1]

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_loss: Tensor | None, d_losses: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        # `once_differentiable` only matters, and takes time, where somebody wants a second derivative.
        run = once_differentiable(_gradients) if torch.is_grad_enabled() else _gradients
        return run(ctx, d_loss, d_losses)


def _gradients(
    ctx: Any, d_loss: Tensor | None, d_losses: Tensor | None
) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    embeddings, weight, kept = saved[0], saved[1], saved[2:]
    needs_embeddings, needs_weight, _, _ = ctx.needs_input_grad
    d_embeddings, d_weight = work.backward(
        embeddings, weight, kept, d_loss, d_losses, ctx.call, needs_embeddings, needs_weight
    )
    return (
        d_embeddings if needs_embeddings else None,
        d_weight if needs_weight else None,
        None,
        None,
    )


# Where no transform of torch.func is active, `apply` does nothing before this.
_apply = super(torch.autograd.Function, _Loss).apply  # pyright: ignore[reportAttributeAccessIssue]


def _forward_operator(
    embeddings: Tensor, weight: Tensor, labels: Tensor, state: list[Tensor],
    class_margins: Tensor | None, *scalars: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    *call, needs_embeddings = scalars
    return work.forward(
        embeddings, weight, labels, state, class_margins, Call(*call), needs_embeddings, apart=True
    )


def _backward_operator(embeddings: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    kept, (d_loss, d_losses, *rest) = others[:NUM_KEPT], others[NUM_KEPT:]
    *call, needs_embeddings, needs_weight = rest
    return work.backward(
        embeddings,
        weight,
        kept,
        d_loss,
        d_losses,
        Call(*call),
        needs_embeddings,
        needs_weight,
    )


_operator = loss_operators.implement(_forward_operator, _backward_operator)
