"""A whole margin loss on the host: small kernels around the pass over the classes.

Everything here depends only on shapes; nothing waits for the device.
"""

import torch
from torch import Tensor

from fusedface.kernels.gpu import backward as of_classes
from fusedface.kernels.gpu import (
    class_centres,
    combination,
    kept_backward,
    launch,
    layout,
    loss,
    margin,
    reductions,
    replay,
    rows,
    slots,
)
from fusedface.kernels.gpu.arguments import Numbers, UnitRows
from fusedface.kernels.gpu.backward import Factors, Saved
from fusedface.kernels.gpu.forward import Sums, tile_flags, unit_rows
from fusedface.kernels.gpu.operators import NUM_KEPT, Kept, Results, numbers_of
from fusedface.kernels.interface.whole import Call
from fusedface.kernels.margins.form import Average

ROWS = 4  # that a program of `rows_kernel` takes
BLOCK = 1024  # rows that the one program of a kernel takes at a time


def forward(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    state: list[Tensor],
    call: Call,
    needs_embeddings: bool,
) -> tuple[Tensor, ...]:
    """`Results` and `Kept`; `state` is updated in place in training."""
    kept, num_states = (
        class_centres.unit_rows(weight, call.precision, call.training) or (),
        len(state),
    )
    signature = (
        _signature(embeddings), _signature(weight), labels.dtype, labels.stride(), call,
        embeddings.device, needs_embeddings, len(kept),
    )  # fmt: skip

    def compute(
        embeddings: Tensor, weight: Tensor, labels: Tensor, *others: Tensor
    ) -> tuple[Tensor, ...]:
        state, kept = others[:num_states], others[num_states:]
        w = UnitRows(*kept) if kept else None
        return _forward(embeddings, weight, labels, state, w, call, needs_embeddings)

    return replay.run(signature, compute, embeddings, weight, labels, *state, *kept)


def _forward(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    state: tuple[Tensor, ...],
    w: UnitRows | None,
    call: Call,
    needs_embeddings: bool,
) -> tuple[Tensor, ...]:
    num_rows, dim = embeddings.shape
    n, operands = numbers_of(call), layout.operands(call.precision)
    num_padded, padded_dim = layout.padded_rows(num_rows), layout.padded_dim(dim, call.precision)
    with launch.on_device(embeddings.device):
        per_sample = embeddings.new_empty(num_rows, dtype=torch.float32)
        saved = per_sample.new_empty(slots.NUM_SAVED + call.keep, num_padded)
        scratch = per_sample.new_empty(slots.NUM_SCRATCH, num_padded)
        numbers = per_sample.new_empty(slots.NUM_NUMBERS)
        known = labels.new_empty(num_rows, dtype=torch.int64)
        x = UnitRows(
            embeddings.new_empty(num_padded, padded_dim, dtype=operands.dtype),
            per_sample.new_empty(num_padded),
        )
        launch.start(
            rows.rows_kernel, num_padded // ROWS,
            embeddings, weight, labels, *x, known, scratch,
            num_rows, num_padded, len(weight), call.ignore_index, dim,
            *labels.stride(), *embeddings.stride(), *weight.stride(),
            DIM=padded_dim, PRECISION=operands.dot, BLOCK_D=layout.power_of_2(padded_dim),
            BLOCK_N=ROWS,
        )  # fmt: skip
        target_cosine = torch.empty_like(per_sample)
        fits = known.new_empty((), dtype=torch.bool)
        launch.start(
            margin.margin_kernel, 1,
            known, scratch, *_two(state, numbers), saved, numbers, target_cosine, fits,
            num_rows, num_padded, call.n0, call.n1, call.n2, call.momentum, call.linear,
            KIND=call.target, NUM_STATES=len(state),
            AVERAGE=call.average if call.training else Average.NOTHING.value,
            STATE_IS_LINEAR=call.state_is_linear, BLOCK=BLOCK,
        )  # fmt: skip
        if w is None:
            w = unit_rows(weight, call.precision, layout.padded_classes(len(weight)))
        flags = tile_flags(known, len(weight))
        with_direction = not call.keep and layout.has_direction(
            dim, call.precision, needs_embeddings
        )
        shape = layout.kept_shape(num_rows, len(weight), call.keep)
        exponentials = x.rows.new_empty(shape)
        sums = Sums(
            x, w, known, saved, numbers, flags, len(weight), n, with_direction,
            exponentials if call.keep else None,
        )  # fmt: skip
        totals, weighted = sums.over_classes()
        stats = per_sample.new_empty(5, num_rows)
        direction = per_sample.new_empty(num_rows if with_direction else 0, padded_dim)
        num_splits = totals.shape[1]
        launch.start(
            combination.finish_kernel, num_rows,
            totals, weighted, x.rows, w.rows, known, scratch, numbers, saved,
            per_sample, stats, direction, exponentials if call.keep else stats,
            num_rows, num_padded, len(weight), num_splits, shape[1], *n.scalars,
            sums.reference.least_total, call.scale, call.gamma,
            WITH_DIRECTION=with_direction, KEEP=call.keep, EXACT=call.exact, FOCAL=call.gamma != 0.0,
            BLOCK_S=layout.power_of_2(num_splits), BLOCK_D=layout.power_of_2(padded_dim),
            **sums.constants,
        )  # fmt: skip
        reduced = per_sample.new_empty(())
        launch.start(
            reductions.reduce_kernel, 1,
            per_sample, numbers, reduced, num_rows, MEAN=call.mean, BLOCK=BLOCK,
        )  # fmt: skip
    results = Results(reduced, per_sample, target_cosine, stats, fits)
    return *results, *Kept(numbers, known, saved, direction, *x, *w, flags, exponentials)


def statistics(stats: Tensor, target_cosine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Modulation (3,), number of hard negatives (B,), whether the target is nearest (B,); one kernel."""

    def compute(stats: Tensor, target_cosine: Tensor) -> tuple[Tensor, ...]:
        num_rows = len(target_cosine)
        modulation = stats.new_empty(3)
        num_hard = stats.new_empty(num_rows, dtype=torch.int64)
        correct = stats.new_empty(num_rows, dtype=torch.bool)
        with launch.on_device(stats.device):
            launch.start(
                reductions.statistics_kernel, 1,
                stats, target_cosine, modulation, num_hard, correct, num_rows, BLOCK=BLOCK,
            )  # fmt: skip
        return modulation, num_hard, correct

    signature = ("statistics", stats.shape, stats.device)
    modulation, num_hard, correct = replay.run(signature, compute, stats, target_cosine)
    return modulation, num_hard, correct


def backward(
    embeddings: Tensor,
    weight: Tensor,
    kept: Kept,
    d_loss: Tensor | None,
    d_losses: Tensor | None,
    mean: bool,
    n: Numbers,
    needs_embeddings: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients in the embeddings (B, D) and the class centres (C, D), empty where not needed.

    `d_loss` (0-d) and `d_losses` (B,) are the gradients in the reduced loss and in the samples'
    losses; None
    is zero.
    """
    given = tuple(gradient for gradient in (d_loss, d_losses) if gradient is not None)

    def compute(embeddings: Tensor, weight: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        left = list(others[NUM_KEPT:])
        gradients = [None if gradient is None else left.pop(0) for gradient in (d_loss, d_losses)]
        return _backward(
            embeddings, weight, Kept(*others[:NUM_KEPT]), gradients[0], gradients[1], mean, n,
            needs_embeddings, needs_weight,
        )  # fmt: skip

    tensors = (embeddings, weight, *kept, *given)
    if any(tensor.data_ptr() % 16 for tensor in kept):
        return compute(*tensors)
    signature = (
        _signature(embeddings), _signature(weight), d_loss is None,
        None if d_losses is None else d_losses.stride(), mean, n,
        embeddings.device, needs_embeddings, needs_weight, kept.exponentials.shape,
    )  # fmt: skip
    d_embeddings, d_weight = replay.run(signature, compute, *tensors)
    return d_embeddings, d_weight


def _backward(
    embeddings: Tensor,
    weight: Tensor,
    kept: Kept,
    d_loss: Tensor | None,
    d_losses: Tensor | None,
    mean: bool,
    n: Numbers,
    needs_embeddings: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    num_rows, num_padded = len(kept.known), kept.saved.shape[1]
    saved, numbers = kept.saved, kept.numbers
    with launch.on_device(embeddings.device):
        factors = Factors(saved.new_empty(slots.NUM_FACTORS, num_padded), saved.new_empty(()))
        is_kept = len(kept.exponentials) > 0
        launch.start(
            reductions.factors_kernel, 1,
            saved, numbers, numbers if d_loss is None else d_loss,
            numbers if d_losses is None else d_losses, *factors,
            num_rows, num_padded, 0 if d_losses is None else d_losses.stride(0),
            2.0 ** layout.operands(n.precision).shift,
            MEAN=mean, OF_LOSS=d_loss is not None, OF_ROWS=d_losses is not None, IS_KEPT=is_kept,
            BLOCK=min(BLOCK, num_padded & -num_padded),
        )  # fmt: skip
        needed = Saved(
            embeddings, weight, kept.known, numbers, kept.direction,
            UnitRows(kept.x, kept.inverse_x), UnitRows(kept.w, kept.inverse_w), kept.flags,
        )  # fmt: skip
        if is_kept:
            return kept_backward.gradients(
                needed, kept.exponentials, factors, n, needs_embeddings, needs_weight
            )
        return of_classes.gradients(needed, factors, n, needs_embeddings, needs_weight)


def _signature(tensor: Tensor) -> tuple[object, ...]:
    """All that compiled code depends on; memory allocated here is always aligned."""
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.data_ptr() % 16


def _two(state: tuple[Tensor, ...], filler: Tensor) -> list[Tensor]:
    return [*state, filler, filler][:2]


loss.work = loss.Work(forward, backward, statistics)
margin_loss = loss.margin_loss
