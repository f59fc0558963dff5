"""Batch normalisation joined with the activation after it: one operator in eager mode on a CPU."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusedface.models.loops.eager import is_parameter, is_plain, serves, serves_inference
from fusedface.models.loops.operands import MAX_CHANNELS, Affine, Statistics

if TYPE_CHECKING:
    from fusedface.models.loops.library import Loops


def norm(
    bn: nn.Module,
    act: nn.Module | None,
    x: Tensor,
    loops: Callable[[], "Loops | None"],
    *,
    is_own: bool = False,
) -> Tensor:
    """`act(bn(x))`, or `bn(x)` without an activation, up to rounding.

    Where the loops serve in training, PReLU's input is neither written nor kept for the backward. In
    inference they write the result where x lies.

    Args:
        bn: nn.BatchNorm2d; whatever else stands in its place is called.
        act: PReLU or nn.ReLU; another activation is called.
        x: (B, C, H, W).
        loops: gives the library, and is called only where the loops serve.
        is_own: whether nothing else reads x, so that it may be overwritten in inference.
    """
    if (
        bn.training
        and serves(x)
        and _joins(bn, act, x)
        and bn.track_running_stats
        and bn.num_batches_tracked is not None
        and (library := loops()) is not None
    ):
        return _by_batch(bn, act, x, library)
    if (
        is_own
        and not bn.training
        and serves_inference(x)
        and _joins(bn, act, x)
        and (library := loops()) is not None
    ):
        return _by_running(bn, act, x, library)
    out = bn(x)
    return out if act is None else act(out)


def _joins(bn: nn.Module, act: nn.Module | None, x: Tensor) -> TypeGuard[nn.BatchNorm2d]:
    """Whether they are layers that the loops know, of these channels."""
    return (
        is_plain(bn, nn.BatchNorm2d)
        and is_parameter(bn.weight)
        and is_parameter(bn.bias)
        and is_parameter(bn.running_mean)
        and is_parameter(bn.running_var)
        and bn.momentum is not None
        and bn.num_features == x.shape[1] <= MAX_CHANNELS
        and (
            act is None
            or is_plain(act, nn.ReLU)
            or (
                is_plain(act, nn.PReLU)
                and is_parameter(act.weight)
                and len(act.weight) == x.shape[1]
            )
        )
    )


def _by_batch(bn: nn.BatchNorm2d, act: nn.Module | None, x: Tensor, library: "Loops") -> Tensor:
    """In training: by the statistics of the batch."""
    slope, kind = _slope(act)
    out, *statistics = _Joined.apply(x, bn.weight, bn.bias, slope, bn.eps, kind, library)
    _remember(bn, Statistics(*statistics))
    return out


def _by_running(bn: nn.BatchNorm2d, act: nn.Module | None, x: Tensor, library: "Loops") -> Tensor:
    """In inference: by the running statistics, in the memory of x."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    slope, kind = _slope(act)
    affine = _gap_free(bn.weight, bn.bias, kind, slope)
    running = bn.running_mean.contiguous(), bn.running_var.contiguous()
    library.norm_by_running(x, affine, *running, bn.eps)
    return x


def _slope(act: nn.Module | None) -> tuple[Tensor | None, str]:
    """PReLU's slope, and which of `ACTIVATIONS` it is."""
    if isinstance(act, nn.PReLU):
        return act.weight, "prelu"
    return None, "linear" if act is None else "relu"


@torch.no_grad()
def _remember(bn: nn.BatchNorm2d, batch: Statistics) -> None:
    """Update the running statistics, as `bn` would have."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert bn.num_batches_tracked is not None
    share = bn.momentum
    assert share is not None
    bn.num_batches_tracked.add_(1)
    bn.running_mean.mul_(1 - share).add_(batch.mean, alpha=share)
    bn.running_var.mul_(1 - share).add_(batch.variance, alpha=share)


class _Joined(torch.autograd.Function):
    """(x, weight, bias, slope) to the result and the `Statistics` of the batch."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        slope: Tensor | None,
        eps: float,
        activation: str,
        library: "Loops",
    ) -> tuple[Tensor, ...]:
        affine = _gap_free(weight, bias, activation, slope)
        out, statistics = library.norm_forward(x, affine, eps)
        ctx.save_for_backward(x, weight, bias, slope, *statistics)
        ctx.mark_non_differentiable(*statistics)
        ctx.set_materialize_grads(False)
        ctx.eps, ctx.activation, ctx.library = eps, activation, library
        return out, *statistics

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if grad is None:  # what follows has no gradient
            return (None,) * 7
        x, weight, bias, slope, *statistics = ctx.saved_tensors
        if torch.is_grad_enabled():  # someone differentiates the backward
            return *_with_graph(ctx, grad, x, weight, bias, slope), None, None, None
        affine = _gap_free(weight, bias, ctx.activation, slope)
        dx, d_affine = ctx.library.norm_backward(
            grad.contiguous(memory_format=torch.channels_last),
            x,
            affine,
            Statistics(*statistics),
            with_dx=ctx.needs_input_grad[0],
        )
        d_weight, d_bias, d_slope = d_affine
        return dx, d_weight, d_bias, None if slope is None else d_slope, None, None, None


def _gap_free(weight: Tensor, bias: Tensor, activation: str, slope: Tensor | None) -> Affine:
    slope = None if slope is None else slope.contiguous()
    return Affine(weight.contiguous(), bias.contiguous(), activation, slope)


def _with_graph(
    ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor | None
) -> list[Tensor | None]:
    """The same gradients by torch's operators, which can be differentiated again."""
    y = F.batch_norm(x, None, None, weight, bias, True, 0.0, ctx.eps)
    if ctx.activation == "relu":
        y = F.relu(y)
    elif slope is not None:
        y = F.prelu(y, slope.to(y.dtype))
    inputs = zip((x, weight, bias, slope), ctx.needs_input_grad, strict=False)
    needed = {i: t for i, (t, needs) in enumerate(inputs) if needs and t is not None}
    found = torch.autograd.grad(y, list(needed.values()), grad, create_graph=True)
    gradients = dict(zip(needed, found, strict=True))
    return [gradients.get(i) for i in range(4)]
