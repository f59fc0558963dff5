"""A whole margin loss on the host: the small kernels of loss.py around the pass over the classes.

Everything here depends on shapes alone; nothing waits for the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.gpu import backward as of_classes
from fusedface.kernels.gpu import launch, layout, loss, replay
from fusedface.kernels.gpu.backward import Factors, Saved
from fusedface.kernels.gpu.forward import (
    Numbers,
    Sums,
    UnitRows,
    has_direction,
    tile_flags,
    unit_rows,
)
from fusedface.kernels.margins.form import Average

ROWS = 4  # that a program of `rows_kernel` takes
BLOCK = 1024  # rows that the one program of a kernel takes at a time


class Call(NamedTuple):
    """All that is no tensor: the margin's form (margins/form.py), N, and options."""

    target: int
    n0: float
    n1: float
    n2: float
    average: int
    momentum: float
    linear: float
    state_is_linear: bool
    gamma: float
    exact: bool  # whether T is differentiated, or T' = 1
    training: bool  # whether the state takes the batch in
    ignore_index: int
    mean: bool  # whether the reduced loss is the mean, or the sum
    scale: float
    square: float
    constant: float
    precision: str
    reweights: bool
    linear_bound: float

    @property
    def n(self) -> Numbers:
        """What the pass over the classes takes of it."""
        return Numbers(*self[-6:])


class Whole(NamedTuple):
    """What the forward returns, and from `known` on what the backward needs; float32 unless told."""

    loss: Tensor  # 0-d
    per_sample: Tensor  # (B,)
    target_cosine: Tensor  # (B,)
    stats: Tensor  # (5, B), as in NegativeStats
    correct: Tensor  # (B,) bool
    num_hard: Tensor  # (B,) int64
    modulation: Tensor  # (3,)
    fits: Tensor  # 0-d bool: every label is a class or ignored
    numbers: Tensor  # (4,), as in loss.py: among them the state that was used
    known: Tensor  # (B,) int64: a class, or -1
    saved: Tensor  # (4, padded B), as in loss.py
    direction: Tensor  # (B, DIM), or (0, DIM)
    x: Tensor  # unit rows and inverse lengths (`UnitRows`)
    inverse_x: Tensor
    w: Tensor
    inverse_w: Tensor
    flags: Tensor


def forward(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    state: list[Tensor],
    call: Call,
    needs_embeddings: bool,
) -> Whole:
    """Loss and statistics; `state` is updated in place in training."""
    signature = (
        _signature(embeddings), _signature(weight), labels.dtype, labels.stride(), call,
        embeddings.device, needs_embeddings,
    )  # fmt: skip

    def compute(embeddings: Tensor, weight: Tensor, labels: Tensor, *state: Tensor) -> Whole:
        return _forward(embeddings, weight, labels, state, call, needs_embeddings)

    return Whole(*replay.run(signature, compute, embeddings, weight, labels, *state))


def _forward(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    state: tuple[Tensor, ...],
    call: Call,
    needs_embeddings: bool,
) -> Whole:
    num_rows, dim = embeddings.shape
    operands = layout.operands(call.precision)
    num_padded, padded_dim = layout.padded_rows(num_rows), layout.padded_dim(dim, call.precision)
    with launch.on_device(embeddings.device):
        per_sample = embeddings.new_empty(num_rows, dtype=torch.float32)
        saved = per_sample.new_empty(loss.NUM_SAVED, num_padded)
        scratch = per_sample.new_empty(loss.NUM_SCRATCH, num_padded)
        numbers = per_sample.new_empty(loss.NUM_NUMBERS)
        known = labels.new_empty(num_rows, dtype=torch.int64)
        x = UnitRows(
            embeddings.new_empty(num_padded, padded_dim, dtype=operands.dtype),
            per_sample.new_empty(num_padded),
        )
        launch.start(
            loss.rows_kernel, num_padded // ROWS,
            embeddings, weight, labels, *x, known, scratch,
            num_rows, num_padded, len(weight), call.ignore_index, dim,
            *labels.stride(), *embeddings.stride(), *weight.stride(),
            DIM=padded_dim, PRECISION=operands.dot, BLOCK_D=layout.power_of_2(padded_dim),
            BLOCK_N=ROWS,
        )  # fmt: skip
        target_cosine = torch.empty_like(per_sample)
        fits = known.new_empty((), dtype=torch.bool)
        launch.start(
            loss.margin_kernel, 1,
            known, scratch, *_two(state, numbers), saved, numbers, target_cosine, fits,
            num_rows, num_padded, call.n0, call.n1, call.n2, call.momentum, call.linear,
            KIND=call.target, NUM_STATES=len(state),
            AVERAGE=call.average if call.training else Average.NOTHING.value,
            STATE_IS_LINEAR=call.state_is_linear, BLOCK=BLOCK,
        )  # fmt: skip
        w = unit_rows(weight, call.precision, layout.padded_classes(len(weight)))
        flags = tile_flags(known, len(weight))
        with_direction = has_direction(dim, call.precision, needs_embeddings)
        sums = Sums(x, w, known, saved, numbers, flags, len(weight), call.n, with_direction)
        totals, weighted = sums.over_classes()
        stats = per_sample.new_empty(5, num_rows)
        direction = per_sample.new_empty(num_rows * with_direction, padded_dim)
        num_splits = totals.shape[1]
        launch.start(
            loss.finish_kernel, num_rows,
            totals, weighted, x.rows, w.rows, known, scratch, numbers, saved,
            per_sample, stats, direction,
            num_rows, num_padded, len(weight), num_splits, *call.n.scalars,
            sums.reference.least_total, call.scale, call.gamma,
            WITH_DIRECTION=with_direction, EXACT=call.exact, FOCAL=call.gamma != 0.0,
            BLOCK_S=layout.power_of_2(num_splits), BLOCK_D=layout.power_of_2(padded_dim),
            **sums.constants,
        )  # fmt: skip
        reduced, modulation = per_sample.new_empty(()), per_sample.new_empty(3)
        num_hard, correct = torch.empty_like(known), known.new_empty(num_rows, dtype=torch.bool)
        launch.start(
            loss.reduce_kernel, 1,
            per_sample, stats, target_cosine, numbers, reduced, modulation, num_hard, correct,
            num_rows, MEAN=call.mean, BLOCK=BLOCK,
        )  # fmt: skip
    return Whole(
        reduced, per_sample, target_cosine, stats, correct, num_hard, modulation, fits,
        numbers, known, saved, direction, *x, *w, flags,
    )  # fmt: skip


def backward(
    embeddings: Tensor,
    weight: Tensor,
    numbers: Tensor,
    known: Tensor,
    saved: Tensor,
    direction: Tensor,
    x: Tensor,
    inverse_x: Tensor,
    w: Tensor,
    inverse_w: Tensor,
    flags: Tensor,
    d_loss: Tensor | None,
    d_losses: Tensor | None,
    mean: bool,
    n: Numbers,
    needs_embeddings: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients in the embeddings (B, D) and the class centres (C, D), empty where not needed.

    `d_loss` is 0-d and `d_losses` (B,): of the reduced loss and those of the samples, None for zero.
    """
    saved_tensors = (numbers, known, saved, direction, x, inverse_x, w, inverse_w, flags)
    given = tuple(gradient for gradient in (d_loss, d_losses) if gradient is not None)

    def compute(embeddings: Tensor, weight: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        kept, left = others[: len(saved_tensors)], list(others[len(saved_tensors) :])
        gradients = [None if gradient is None else left.pop(0) for gradient in (d_loss, d_losses)]
        return _backward(
            embeddings, weight, *kept, *gradients, mean, n, needs_embeddings, needs_weight
        )

    tensors = (embeddings, weight, *saved_tensors, *given)
    if not layout.is_narrow(embeddings.shape[1], n.precision):
        return compute(*tensors)  # chunk after chunk: the memory of one is to be free for the next
    signature = (
        _signature(embeddings), _signature(weight), d_loss is None,
        None if d_losses is None else d_losses.stride(), mean, n,
        embeddings.device, needs_embeddings, needs_weight,
    )  # fmt: skip
    return replay.run(signature, compute, *tensors)


def _backward(
    embeddings: Tensor,
    weight: Tensor,
    numbers: Tensor,
    known: Tensor,
    saved: Tensor,
    direction: Tensor,
    x: Tensor,
    inverse_x: Tensor,
    w: Tensor,
    inverse_w: Tensor,
    flags: Tensor,
    d_loss: Tensor | None,
    d_losses: Tensor | None,
    mean: bool,
    n: Numbers,
    needs_embeddings: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    num_rows, num_padded = len(known), saved.shape[1]
    with launch.on_device(embeddings.device):
        factors = Factors(torch.empty_like(saved), saved.new_empty(()))
        launch.start(
            loss.factors_kernel, 1,
            saved, numbers, numbers if d_loss is None else d_loss,
            numbers if d_losses is None else d_losses, *factors,
            num_rows, num_padded, 0 if d_losses is None else d_losses.stride(0),
            2.0 ** layout.operands(n.precision).shift,
            MEAN=mean, OF_LOSS=d_loss is not None, OF_ROWS=d_losses is not None,
            BLOCK=min(BLOCK, num_padded & -num_padded),
        )  # fmt: skip
        needed = Saved(
            embeddings, weight, known, numbers, direction, UnitRows(x, inverse_x),
            UnitRows(w, inverse_w), flags,
        )  # fmt: skip
        return of_classes.gradients(needed, factors, n, needs_embeddings, needs_weight)


def _signature(tensor: Tensor) -> tuple[object, ...]:
    """What compiled code depends on; memory of our own is always aligned."""
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.data_ptr() % 16


def _two(state: tuple[Tensor, ...], filler: Tensor) -> list[Tensor]:
    return [*state, filler, filler][:2]
