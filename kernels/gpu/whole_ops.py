"""The operators of a whole margin loss, and `margin_loss` for the margins that have a form.

Defined with `torch.library.Library` and a backward written by hand: an eager call costs the host a seventh
of what `custom_op` does. `fusedface::margin_loss` updates the state in place. Opaque to torch.compile,
with shapes without data (`register_fake`), and without work on the host that waits for the device.
"""

# ruff: noqa: ARG001  (shapes without data take all arguments of their operator)

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusedface.kernels import checks
from fusedface.kernels.gpu import forward, layout, loss, ops, whole
from fusedface.kernels.gpu.forward import Numbers
from fusedface.kernels.gpu.whole import Call, Whole
from fusedface.kernels.margins import Reweighting, State, form_of
from fusedface.kernels.options import HeadOptions
from fusedface.kernels.output import MarginOutput, Modulation

_NUM_RESULTS = Whole._fields.index("known")  # the others are for the backward


def margin_loss(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    options: HeadOptions,
    state: State,
    training: bool,
    precision: str,
) -> MarginOutput | None:
    """The loss of `functional.margin_loss`, or None where only its plain path has what is asked for."""
    # Looking it up costs less than making it, but is no part of a graph.
    call_of = _call if torch.compiler.is_compiling() else _kept_call
    found = None if options.weighting is not None else call_of(options, training, precision)
    if found is None:
        return None
    call, names = found
    states = [state[name] for name in names]
    ops.check_operands(embeddings, weight)
    if not all(_is_number_on(embeddings.device, value) for value in states):
        return None
    is_read = checks.can_be_read(embeddings.device)
    if is_read:
        checks.check_values(embeddings, labels, state, len(weight), options.ignore_index)
    needs_embeddings = torch.is_grad_enabled() and embeddings.requires_grad
    out = Whole(*_margin_loss(embeddings, weight, labels, states, *call, needs_embeddings))
    if is_read:
        lse = out.saved[loss.LSE.value, : len(labels)]
        checks.check_centres(out.target_cosine.where(out.known >= 0, 0.0), lse, weight)
    else:
        # Without a message torch.compile drops it.
        torch.ops.aten._assert_async.msg(out.fits, checks.WRONG_LABELS)
    used = out.numbers.unbind()[loss.STATE.value :]
    return MarginOutput(
        loss=out.per_sample if options.reduction == "none" else out.loss,
        per_sample_loss=out.per_sample,
        target_cosine=out.target_cosine,
        max_negative_cosine=out.stats[0],
        correct=out.correct,
        hard_negatives=out.num_hard,
        modulation=Modulation(*out.modulation.unbind()),
        state=dict(zip(names, used, strict=False)),
    )


def _is_number_on(device: torch.device, value: Tensor) -> bool:
    return value.dtype == torch.float32 and value.dim() == 0 and value.device == device


def _call(
    options: HeadOptions, training: bool, precision: str
) -> tuple[Call, tuple[str, ...]] | None:
    """What the operator is told, and the names of the states; None for a margin without a form."""
    margin = options.margin
    form, names = form_of(margin), tuple(margin.initial_state())
    if form is None:
        return None
    n = margin.reweighting({name: torch.zeros(()) for name in names})
    state_is_linear = isinstance(n.linear, Tensor)
    linear = 1.0 if state_is_linear else n.linear
    call = Call(
        form.target.value, *form.numbers, form.average.value, form.momentum, linear, state_is_linear,
        options.focal_gamma, options.target_gradient == "exact", training, options.ignore_index,
        options.reduction == "mean",
        margin.s, n.square, n.constant, precision,
        state_is_linear or n != Reweighting(), abs(linear),
    )  # fmt: skip
    return call, names


_kept_call = functools.lru_cache(maxsize=256)(_call)


def _of(record: type) -> str:
    """Fields of a record as a schema has them."""
    return ", ".join(f"{kind.__name__} {name}" for name, kind in record.__annotations__.items())


def _tensors(num: int) -> str:
    return f"({', '.join(['Tensor'] * num)})"


_NUM_SAVED = len(Whole._fields) - _NUM_RESULTS + 1  # and `numbers`
_SAVED = ", ".join(f"Tensor {name}" for name in Whole._fields[_NUM_RESULTS - 1 :])
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
_library = torch.library.Library("fusedface", "FRAGMENT")
_library.define(
    f"margin_loss(Tensor embeddings, Tensor weight, Tensor labels, Tensor(a!)[] state, {_of(Call)}, "
    f"bool needs_embeddings) -> {_tensors(len(Whole._fields))}",
    tags=_TAGS,
)
_library.define(
    f"margin_loss_backward(Tensor embeddings, Tensor weight, {_SAVED}, "
    f"Tensor? d_loss, Tensor? d_losses, bool mean, {_of(Numbers)}, "
    f"bool needs_embeddings, bool needs_weight) -> {_tensors(2)}",
    tags=_TAGS,
)


def _forward(
    embeddings: Tensor, weight: Tensor, labels: Tensor, state: list[Tensor], *scalars: Any
) -> Whole:
    *call, needs_embeddings = scalars
    made = Call(*call)
    if made.training and state:
        torch.autograd.graph.increment_version(state)
    return whole.forward(embeddings, weight, labels, state, made, needs_embeddings)


def _backward(embeddings: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    saved, (d_loss, d_losses, mean, *rest) = others[:_NUM_SAVED], others[_NUM_SAVED:]
    *numbers, needs_embeddings, needs_weight = rest
    return whole.backward(
        embeddings, weight, *saved, d_loss, d_losses, mean, Numbers(*numbers),
        needs_embeddings, needs_weight,
    )  # fmt: skip


def _fake_forward(
    embeddings: Tensor, weight: Tensor, labels: Tensor, state: list[Tensor], *scalars: Any
) -> Whole:
    *call, needs_embeddings = scalars
    precision = Call(*call).precision
    (num_rows, dim), num_classes = embeddings.shape, len(weight)
    dtype, padded = layout.operands(precision).dtype, layout.padded_dim(dim, precision)
    has_direction = forward.has_direction(dim, precision, needs_embeddings)
    unit_rows, unit_classes = layout.padded_rows(num_rows), layout.padded_classes(num_classes)
    new = embeddings.new_empty
    return Whole(
        loss=new((), dtype=torch.float32),
        per_sample=new(num_rows, dtype=torch.float32),
        target_cosine=new(num_rows, dtype=torch.float32),
        stats=new((5, num_rows), dtype=torch.float32),
        correct=new(num_rows, dtype=torch.bool),
        num_hard=new(num_rows, dtype=torch.int64),
        modulation=new(3, dtype=torch.float32),
        fits=new((), dtype=torch.bool),
        numbers=new(loss.NUM_NUMBERS, dtype=torch.float32),
        known=new(num_rows, dtype=torch.int64),
        saved=new((loss.NUM_SAVED, unit_rows), dtype=torch.float32),
        direction=new((num_rows if has_direction else 0, padded), dtype=torch.float32),
        x=new((unit_rows, padded), dtype=dtype),
        inverse_x=new(unit_rows, dtype=torch.float32),
        w=new((unit_classes, padded), dtype=dtype),
        inverse_w=new(unit_classes, dtype=torch.float32),
        flags=new((unit_rows // layout.FLAG_ROWS, layout.num_flags(num_classes)), dtype=torch.int8),
    )


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
        ctx.save_for_backward(embeddings, weight, *results[_NUM_RESULTS - 1 :])
        ctx.call = Call(*others[2:-1])
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        needs_embeddings, needs_weight, _ = ctx.needs_input_grad
        d_embeddings, d_weight = _margin_loss_backward(
            *ctx.saved_tensors, *grad_outputs[:2], ctx.call.mean, *ctx.call.n,
            needs_embeddings, needs_weight,
        )  # fmt: skip
        return d_embeddings if needs_embeddings else None, d_weight if needs_weight else None, None


def _autograd(embeddings: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, ...]:
    if torch.is_grad_enabled() and (embeddings.requires_grad or weight.requires_grad):
        return _Loss.apply(embeddings, weight, others)
    with torch._C._AutoDispatchBelowAutograd():
        return _margin_loss(embeddings, weight, *others)


def _register(name: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fusedface::{name}", fake, lib=_library)


_register("margin_loss", _forward, _fake_forward)
_register("margin_loss_backward", _backward, _fake_backward)
_library.impl("margin_loss", _autograd, "Autograd")
_margin_loss = torch.ops.fusedface.margin_loss.default
_margin_loss_backward = torch.ops.fusedface.margin_loss_backward.default
