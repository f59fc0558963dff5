"""The fused algorithm in chunks of classes that stay in the cache; for CPUs, and any other device.

Forward, one pass over the class centres with an online log-sum-exp (docs/losses.md (3)-(5)):

    lse_i = log sum_j e^(s N_ij)        direction_i = sum_j q_ij N'_ij w_j        q_ij = e^(s N_ij - lse_i)

`direction` is the gradient in the unit embedding up to a factor per row. So the backward computes only
the gradient of the class centres, in one more pass that computes the same cosines again. In all, 8 B C D
flops, and no tensor of size B x C. Compiled loops keep numerators q, as many as the gradient's own memory
holds and some more (chunks/kept.py), and need 6 B C D flops for these.

Logits are kept in base 2, y = s log2(e) c, because exp2 is four times as fast as exp here. In y, N' and N
keep their form with rescaled coefficients, so no pass over a chunk is spent on s.

chunks/ holds the two passes: as compiled loops on CPUs with a C compiler, else as torch operators.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusedface.kernels.chunks import build, compiled, plain
from fusedface.kernels.chunks.kept import Kept, KeptChunk, layout
from fusedface.kernels.chunks.library import Library, has_memory
from fusedface.kernels.chunks.operands import Hard, Operands, Totals
from fusedface.kernels.interface.normalisation import inverse_norms, min_norm, project
from fusedface.kernels.interface.primitive import (
    CosineLse,
    NegativeStats,
    Primitive,
    Spec,
    compute_dtype,
)
from fusedface.kernels.products import Products
from fusedface.kernels.sgd import RowsSGD

LOG2_E = math.log2(math.e)
CHUNK_ELEMENTS = 2**20  # of y: 4 MB in float32, and three more such tensors without compiled loops
MIN_CHUNK, MAX_CHUNK = 256, 4096  # classes: fewer make slow products, more overflow the cache
CHUNK_STEP = 16  # classes: 64 bytes of a row of y in float32, a line of the cache
KEPT_BYTES = 2**24  # of freed memory, at least, so that products find theirs again
COMPILED_FROM = 2**17  # numbers of y: with fewer, compiling takes longer than most runs gain


def cosine_lse(
    embeddings: Tensor, weight: Tensor, labels: Tensor, threshold: Tensor, spec: Spec
) -> CosineLse:
    """See `Primitive`. Not differentiable twice."""
    run: Primitive = _cosine_lse
    if torch.compiler.is_compiling():
        # torch.compile leaves the loop over chunks out of its graph and compiles the code around it. Not
        # a decorator: that would load the whole compiler, two seconds, on import of this package.
        run = cast(Primitive, torch.compiler.disable(_cosine_lse))
    return run(embeddings, weight, labels, threshold, spec)


def _cosine_lse(
    embeddings: Tensor, weight: Tensor, labels: Tensor, threshold: Tensor, spec: Spec
) -> CosineLse:
    # Reading a tensor `linear` is the one place where a GPU would wait.
    hard = Hard(spec.hard.square, float(spec.hard.linear), spec.hard.constant)
    if (
        not torch.is_grad_enabled()
    ):  # else a tensor that wants a gradient has the forward prepare it
        embeddings, weight = embeddings.detach(), weight.detach()
    cos_y, lse, *stats = _ChunkedLse.apply(embeddings, weight, labels, threshold, spec, hard)
    return CosineLse(cos_y, lse, NegativeStats(*stats))


class _ChunkedLse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        threshold: Tensor,
        spec: Spec,
        hard: Hard,
    ) -> tuple[Tensor, ...]:
        batch = _Batch(embeddings, weight, labels, threshold, spec, hard)
        with_direction, keep = ctx.needs_input_grad[:2]
        totals, kept = _sum_up(batch.operands, with_direction, keep, spec.update is None)
        direction, total = totals.direction, totals.total
        lse = (totals.largest + total.log2()) / LOG2_E
        cos_y = (batch.operands.x * batch.target_centres).sum(dim=1)
        stats = _stats(totals, batch.operands)
        ctx.mark_non_differentiable(*stats)
        direction = None if direction is None else direction.div_(total[:, None])
        # The inputs too: changed in place before the backward, they are an error.
        apart = [] if kept is None else kept.release()
        ctx.save_for_backward(embeddings, weight, labels, threshold, lse, direction, *apart)
        ctx.batch, ctx.kept, ctx.scale, ctx.update = batch, kept, spec.scale, spec.update
        return cos_y, lse, *stats

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        d_cos_y, d_lse = grad_outputs[:2]
        embeddings, weight, labels, _, lse, direction, *apart = ctx.saved_tensors
        batch: _Batch = ctx.batch
        operands, w = batch.operands, batch.target_centres
        d_negatives = (ctx.scale * d_lse)[:, None]  # with direction: through lse          [B, 1]
        d_target = (d_cos_y * (labels >= 0))[:, None]  # through the target cosine         [B, 1]

        d_embeddings = d_weight = None
        if direction is not None:
            d_x = project(direction * d_negatives + w * d_target, operands.x)
            d_embeddings = d_x.mul_(batch.inverse_norm_x[:, None]).to(embeddings.dtype)
        if ctx.needs_input_grad[1]:
            memory, kept = (None, []) if ctx.kept is None else ctx.kept.take(apart)
            saved = _Saved(lse * LOG2_E, kept)
            if ctx.update is None:
                d_weight = torch.empty_like(weight) if memory is None else memory
                _write_gradient(operands, saved, d_negatives, d_target, d_weight)
            else:
                sgd = RowsSGD(weight, ctx.update, d_negatives, d_target)
                _apply(sgd, operands, saved, d_negatives, d_target)
        return d_embeddings, d_weight, None, None, None, None


class _Batch:
    """Values that the forward derives from its inputs and the backward uses again."""

    def __init__(
        self,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        threshold: Tensor,
        spec: Spec,
        hard: Hard,
    ) -> None:
        keep_freed_memory()
        dtype = compute_dtype(embeddings, weight)
        base2 = spec.scale * LOG2_E
        x = embeddings.to(dtype)
        _, self.inverse_norm_x = inverse_norms(x, min_norm(embeddings.dtype))
        x = x * self.inverse_norm_x[:, None]
        rows, classes = len(x), len(weight)
        self.operands = Operands(
            x=x,
            x_base2=x * base2,
            weight=weight,
            labels=labels,
            threshold=(threshold * base2).to(dtype),  # a margin may compute it in float64
            hard=hard,
            base2=base2,
            products=Products(embeddings.device, spec.precision),
            chunk_size=chunk_size(rows, classes),
        )

        w = weight[labels.clamp_min(0)].to(dtype)
        inverse = inverse_norms(w, min_norm(weight.dtype))[1]
        self.target_centres = w.mul_(inverse[:, None])
        """Unit class centres of the targets, (B, D); any row where the label is -1."""


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep the memory that a product frees: new pages cost as much as the products.

    glibc returns a freed block to the system if it is above a limit, and that limit rises to the largest
    such block freed so far (mallopt(3), M_MMAP_THRESHOLD). So this frees one block of which no page was
    ever touched.
    """
    torch.empty(KEPT_BYTES, dtype=torch.uint8, device="cpu")


class _Saved(NamedTuple):
    """Results of the forward for the gradient of the class centres."""

    lse: Tensor  # (B,), in base 2
    kept: list[KeptChunk]  # of `Kept.take`


def _sum_up(
    of: Operands, with_direction: bool, keep: bool, makes_gradient: bool
) -> tuple[Totals, Kept | None]:
    if (library := _library(of)) is None:
        return plain.sum_up(of, with_direction), None
    in_gradient = makes_gradient and compiled.is_written_to(of.weight)
    sums, kept = compiled.sum_up(library, of, with_direction, keep, in_gradient)
    largest, total, _, max_y, num_hard, least, lift_sum = sums.numbers.unbind()
    return Totals(largest, total, max_y, num_hard, least, lift_sum, sums.direction), kept


def _write_gradient(
    of: Operands, saved: _Saved, d_negatives: Tensor, d_target: Tensor, d_weight: Tensor
) -> None:
    """d_weight (C, D) <- d loss / d weight; the gradients are (B, 1)."""
    for _ in _gradients(of, saved, of.x * d_negatives, of.x * d_target, d_weight):
        pass  # written a chunk at a time


def _apply(
    sgd: RowsSGD, of: Operands, saved: _Saved, d_negatives: Tensor, d_target: Tensor
) -> None:
    """A step of SGD on each chunk as soon as its gradient is there."""
    if sgd.does_nothing:
        return
    x_negatives, x_target = (of.x * (d * sgd.unscale) for d in (d_negatives, d_target))
    for first, d_w in _gradients(of, saved, x_negatives, x_target, None):
        sgd.step(first, d_w)


def _gradients(
    of: Operands, saved: _Saved, x_negatives: Tensor, x_target: Tensor, into: Tensor | None
) -> Iterator[tuple[int, Tensor]]:
    lse, kept = saved
    if (library := _library(of)) is not None:
        return compiled.gradients(library, of, lse, x_negatives, x_target, into, kept)
    return plain.gradients(of, lse, x_negatives, x_target, into)


def _library(of: Operands) -> Library | None:
    is_plain = of.dtype == torch.float32 and of.x.device.type == "cpu"
    serves = is_plain and has_memory(of.x, of.weight)
    return library_for(len(of.x), len(of.weight)) if serves else None


def library_for(rows: int, classes: int) -> Library | None:
    """The compiled loops, if they are available and pay at these sizes; no timing decides that."""
    return build.library() if rows * classes >= COMPILED_FROM else None


def chunk_size(rows: int, classes: int) -> int:
    """The number of classes at a time, about as many in every chunk: products of few are slow."""
    most = min(max(CHUNK_ELEMENTS // rows, MIN_CHUNK), MAX_CHUNK)
    even = math.ceil(classes / math.ceil(classes / most))
    return min(math.ceil(even / CHUNK_STEP) * CHUNK_STEP, most, classes)


def classes_computed_once(rows: int, classes: int, dim: int, precision: str) -> int:
    """The number of classes whose cosines a float32 step on a CPU does not compute a second time."""
    if library_for(rows, classes) is None:
        return 0
    itemsize = Products(torch.device("cpu"), precision).dtype.itemsize
    size = chunk_size(rows, classes)
    where = layout(rows, classes, dim, size, itemsize, True)
    return min(size * (where.apart + where.inside), classes)


def _stats(totals: Totals, of: Operands) -> NegativeStats:
    """The largest slope is that of the largest cosine, as square >= 0."""
    max_cosine, num_hard = totals.max_y / of.base2, totals.num_hard
    any_hard = num_hard > 0
    slope_max = 2.0 * of.hard.square * max_cosine + of.hard.linear
    if of.hard.square:
        slope_min, slope_sum = totals.least + 1.0, totals.lift_sum + num_hard
    else:
        slope_min, slope_sum = slope_max, slope_max * num_hard
    return NegativeStats(
        max_cosine=max_cosine,
        num_hard=num_hard,
        slope_min=slope_min.where(any_hard, slope_min.new_tensor(torch.inf)),
        slope_max=slope_max.where(any_hard, slope_max.new_tensor(-torch.inf)),
        slope_sum=slope_sum,
    )
