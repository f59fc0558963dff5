"""Class sampling (Partial FC): a batch meets its own classes and random others, not all C.

An et al., "Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by
Partial FC", CVPR 2022. A process keeps K = ceil(rate C) of its C class centres for a step: all targets of
the batch, then other classes, each as likely as any other, none twice. The log-sum-exp of a row
is over the sample, and with the correction

    lse = log sum_{j in the sample, j != y} e^(s N_j) + log((C - 1) / (K - 1))

whose sum has the expectation of the sum over all negatives, where the other targets of the batch are
negatives like any other (docs/scaling.md). Target cosines, and with them t, are of all centres, and exact.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusedface.kernels.interface.primitive import Backend, CosineLse, Keys, Primitive, Spec
from fusedface.kernels.interface.random_bits import random_bits
from fusedface.kernels.interface.update import Sampled
from fusedface.kernels.interface.whole import Call, Whole, WholeLoss

LARGEST = 2**63 - 1
IGNORED = -(2**62)  # a label that is neither a class nor wrong
SLACK = 1e-6  # of a number of classes: rate C is rounded


class Sample(NamedTuple):
    """How classes are drawn in one step."""

    rate: float
    corrected: bool
    seed: Tensor
    """0-d int64, on the device."""
    first_class: int | Tensor
    """First class of this process, so that any two processes draw differently."""


def num_kept(num_classes: int, rate: float, num_rows: int = 2) -> int:
    """K, of C classes: room for a target of every row, and for a negative."""
    return min(num_classes, max(math.ceil(rate * num_classes - SLACK), num_rows, 2))


def check_sample_rate(rate: float, num_rows: int, num_classes: int | Tensor) -> None:
    """Raise ValueError if a sample of the C classes is too small for B rows of different classes.

    If C is a tensor on a GPU, a device-side assertion takes the place of the error: reading C would wait.
    """
    if rate == 1.0:
        return
    if isinstance(num_classes, Tensor):
        fits = rate * num_classes >= num_rows - SLACK
        torch.ops.aten._assert_async.msg(fits, "sample_rate is below B / C")
    elif rate * num_classes < num_rows - SLACK:
        raise ValueError(
            f"sample_rate must be at least B / C = {num_rows} / {num_classes} = "
            f"{num_rows / num_classes:.4g}, since {num_rows} rows may be of as many classes, got {rate!r}"
        )


def over(
    run: Backend,
    rate: float,
    corrected: bool,
    labels: Tensor,
    num_classes: int | Tensor,
    first_class: int | Tensor,
) -> Backend:
    """The same backend over a new sample of the class centres.

    It takes one number from torch's generator of the labels' device. `labels` and `num_classes` are those
    of all processes, `first_class` is the first class of this one.

    Raises:
        ValueError: as `check_sample_rate`.
    """
    check_sample_rate(rate, len(labels), num_classes)
    seed = torch.randint(LARGEST, (), device=labels.device)
    sample = Sample(rate, corrected, seed, first_class)
    whole = None
    if run.whole is not None and not run.whole_checks:  # chunked.py has no whole loss of a sample
        whole = partial(_whole_loss, sample, run.whole, run.keys)
    return Backend(
        partial(_cosine_lse, sample, run.cosine_lse), run.target_cosine, whole, _whole_serves
    )


def _whole_serves(embeddings: Tensor, weight: Tensor, call: Call) -> bool:  # noqa: ARG001
    return not (call.keep or torch.compiler.is_compiling())


def _whole_loss(
    sample: Sample,
    whole: Whole,
    keys: Keys | None,
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    state: list[Tensor],
    class_margins: Tensor | None,
    call: Call,
) -> WholeLoss:
    """See `Whole`: over the sample as if it were all classes, which holds the target of every row."""
    num_classes, count = len(weight), num_kept(len(weight), sample.rate, len(labels))
    if count == num_classes:
        return whole(embeddings, weight, labels, state, class_margins, call)
    labels = labels.long()
    ignored = labels == call.ignore_index
    outside = ignored | (labels < 0) | (labels >= num_classes)
    known = labels.masked_fill(outside, -1)
    kept = draw(count, num_classes, known, sample, keys)
    # A wrong label stays one: below 0, or past the last class of the sample too.
    place = torch.where(outside, labels, torch.searchsorted(kept, known.clamp_min(0)))
    if class_margins is not None:
        class_margins = class_margins.index_select(0, kept)
    shift = math.log((num_classes - 1) / (count - 1)) if sample.corrected else 0.0
    call = call._replace(ignore_index=IGNORED, lse_shift=shift)
    place = place.masked_fill(ignored, IGNORED)
    return whole(embeddings, _take(weight, kept), place, state, class_margins, call)


def _cosine_lse(
    sample: Sample,
    primitive: Primitive,
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    threshold: Tensor,
    spec: Spec,
) -> CosineLse:
    """See `Primitive`."""
    num_classes, count = len(weight), num_kept(len(weight), sample.rate, len(labels))
    if count == num_classes:
        return primitive(embeddings, weight, labels, threshold, spec)
    kept = draw(count, num_classes, labels, sample)
    if spec.update is None:
        centres = _take(weight, kept)
    else:
        copied = _copied
        if torch.compiler.is_compiling():
            copied = cast(Callable[..., tuple[Tensor, Sampled]], torch.compiler.disable(copied))
        centres, of = copied(weight, kept)
        spec = replace(spec, update=replace(spec.update, sampled=of))
    has_target = labels >= 0
    place = torch.searchsorted(kept, labels.clamp_min(0)).masked_fill(~has_target, -1)
    cos_y, lse, stats = primitive(embeddings, centres, place, threshold, spec)
    if sample.corrected:
        of_others = math.log((num_classes - 1) / (count - 1))
        of_all = math.log(num_classes / count)
        lse = lse + torch.full_like(lse, of_all).masked_fill(has_target, of_others)
    return CosineLse(cos_y, lse, stats)


def draw(
    count: int, num_classes: int, labels: Tensor, sample: Sample, keys_of: Keys | None = None
) -> Tensor:
    """The kept classes, (count,) int64, rising: all of `labels` (B,) that are not -1, and others."""
    if keys_of is not None and isinstance(sample.first_class, int):
        keys = keys_of(sample.seed, num_classes + 1, sample.first_class)
    else:
        numbers = torch.arange(num_classes + 1, device=labels.device) + sample.first_class
        keys = random_bits(sample.seed, numbers) & LARGEST
    # The last key belongs to no class and serves rows without a target, so that no size depends on values.
    keys.scatter_(0, labels.masked_fill(labels < 0, num_classes), LARGEST)
    return keys[:num_classes].topk(count, sorted=False).indices.sort().values


def _take(weight: Tensor, kept: Tensor) -> Tensor:
    """The rows (K, D) of weight (C, D); its gradient is sparse where it is a leaf."""
    take = _Rows.apply
    if torch.compiler.is_compiling():
        take = cast(Callable[[Tensor, Tensor], Tensor], torch.compiler.disable(take))
    return take(weight, kept)


def _copied(weight: Tensor, kept: Tensor) -> tuple[Tensor, Sampled]:
    """A copy of the rows (K, D) for a backend that updates the rows themselves."""
    whole = weight.detach()
    return whole[kept].requires_grad_(weight.requires_grad), Sampled(whole, kept, weight._version)


class _Rows(torch.autograd.Function):
    """Rows of a matrix; the gradient holds just these, K D numbers, as that of a sparse nn.Embedding."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.shape, ctx.is_leaf = weight.shape, weight.is_leaf
        return weight.index_select(0, kept)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_rows: Tensor
    ) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        if not ctx.is_leaf:  # few operations that it may come from take a sparse gradient
            return d_rows.new_zeros(ctx.shape).index_copy_(0, kept, d_rows), None
        d_weight = torch.sparse_coo_tensor(
            kept[None], d_rows, ctx.shape, is_coalesced=True, check_invariants=False
        )
        return d_weight, None
