"""A whole margin loss with compiled loops, for CPUs, where no operator of torch works on B numbers.

With a thousand classes those operators, some three hundred in a step, took longer than the products did.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusedface.kernels import checks, chunked
from fusedface.kernels.chunks import compiled
from fusedface.kernels.chunks.library import has_memory
from fusedface.kernels.chunks.operands import Hard, Operands
from fusedface.kernels.chunks.rows import Results, row_loops
from fusedface.kernels.interface.normalisation import min_norm
from fusedface.kernels.interface.whole import Call, Rest, WholeLoss
from fusedface.kernels.margins.form import Target
from fusedface.kernels.products import Products

_FITS = torch.ones((), dtype=torch.bool)  # labels that do not are an error already


def serves(embeddings: Tensor, weight: Tensor, call: Call) -> bool:
    """Whether `margin_loss` can take them; torch.compile leaves out the loops of chunked.py instead."""
    if call.target > Target.QUALITY or call.weighting:
        return False  # rows.c has no margins of classes or of lengths, and no weights of samples
    if torch.compiler.is_compiling() or not embeddings.device.type == weight.device.type == "cpu":
        return False
    is_plain = embeddings.dtype == weight.dtype == torch.float32 and weight.is_contiguous()
    is_plain = is_plain and has_memory(embeddings, weight)
    return is_plain and chunked.library_for(len(embeddings), len(weight)) is not None


def margin_loss(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    state: list[Tensor],
    class_margins: Tensor | None,  # noqa: ARG001  (see `serves`)
    call: Call,
) -> WholeLoss:
    """See `interface.whole.Whole`. Not differentiable twice.

    Raises:
        ValueError: as `checks.check_values` and `checks.check_centres`.
    """
    if call.keep:
        checks.check_keeps_nothing(embeddings, weight)
    if (
        not torch.is_grad_enabled()
    ):  # else a tensor that wants a gradient has the forward prepare it
        embeddings, weight = embeddings.detach(), weight.detach()
    if call.training and state:
        torch.autograd.graph.increment_version(state)
    apart: list[_Apart] = []
    with torch.autocast("cpu", enabled=False):  # whose dtype is `call.precision`, if it counts
        loss, per_sample = _Loss.apply(embeddings, weight, labels, state, call, apart)
    results, modulation, used = apart[0]

    def rest() -> Rest:
        _, _, max_cosine, _, num_hard, correct = results
        states = used.unbind()[: len(state)]
        return Rest(max_cosine, correct, num_hard, modulation.unbind(), states)

    return WholeLoss(loss, per_sample, results.target_cosine, _FITS, rest)


class _Apart(NamedTuple):
    """What has no gradient, which autograd would spend time on."""

    results: Results
    modulation: Tensor
    used: Tensor


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        state: list[Tensor],
        call: Call,
        apart: list[_Apart],
    ) -> tuple[Tensor, Tensor]:
        library = chunked.library_for(len(embeddings), len(weight))
        assert library is not None  # see `serves`
        loops = row_loops(library)
        chunked.keep_freed_memory()
        products = Products(embeddings.device, call.precision)
        base2 = call.scale * chunked.LOG2_E
        rows, x_base2, fits = loops.enter(
            embeddings.contiguous(), weight, labels.long().contiguous(), call.ignore_index,
            min_norm(torch.float32), base2, products.dtype,
        )  # fmt: skip
        if not fits:
            checks.check_values(embeddings, labels, {}, len(weight), call.ignore_index)
        used = loops.apply_margin(rows, call, base2, state)
        _, _, linear, count = used.tolist()
        operands = Operands(
            x=rows.x,
            x_base2=x_base2,
            weight=weight,
            labels=rows.known,
            threshold=rows.number("threshold"),
            hard=Hard(call.square, linear, call.constant),
            base2=base2,
            products=products,
            chunk_size=chunked.chunk_size(len(embeddings), len(weight)),
        )
        sums, kept = compiled.sum_up(library, operands, *ctx.needs_input_grad[:2], in_gradient=True)
        loss, results, modulation, is_finite = loops.leave(rows, call, base2, used, sums)
        if not is_finite:
            checks.check_rows("weight", weight)
        apart.append(_Apart(results, modulation, used))
        ctx.set_materialize_grads(False)
        # The inputs too: changed in place before the backward, they are an error.
        ctx.save_for_backward(embeddings, weight, labels, sums.direction, *kept.release())
        ctx.rows, ctx.operands, ctx.kept = rows, operands, kept
        ctx.share = 1.0 / max(count, 1.0) if call.mean else 1.0
        return loss, results.loss

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        d_loss, d_losses = grad_outputs[:2]
        _, weight, _, direction, *apart = ctx.saved_tensors
        rows, operands = ctx.rows, ctx.operands
        library = chunked.library_for(len(rows.x), len(weight))
        assert library is not None
        d_losses = None if d_losses is None else d_losses.contiguous()
        d_embeddings, x_negatives, x_target = row_loops(library).give_back(
            rows, d_loss, ctx.share, d_losses, direction
        )
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight, kept = ctx.kept.take(apart)
            d_weight = torch.empty_like(weight) if d_weight is None else d_weight
            for _ in compiled.gradients(
                library, operands, rows.number("lse"), x_negatives, x_target, d_weight, kept
            ):
                pass  # written a chunk at a time
        return d_embeddings, d_weight, None, None, None, None
