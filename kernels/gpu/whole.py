"""A whole margin loss on the host: its forward and backward, replayed where the same was done before.

Everything here depends only on shapes; nothing waits for the device.
"""

import torch
from torch import Tensor

from fusedface.kernels.gpu import backward as of_classes
from fusedface.kernels.gpu import (
    class_centres,
    kept_backward,
    launch,
    loss,
    loss_forward,
    memory,
    reductions,
    replay,
    slots,
)
from fusedface.kernels.gpu.arguments import UnitRows
from fusedface.kernels.gpu.backward import Factors, Saved, empty_factors
from fusedface.kernels.gpu.loss_forward import BLOCK, block_of_factors, boost
from fusedface.kernels.gpu.loss_operators import numbers_of
from fusedface.kernels.interface.whole import Call
from fusedface.kernels.margins.form import OF_LENGTHS


def forward(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    state: list[Tensor],
    class_margins: Tensor | None,
    call: Call,
    needs_embeddings: bool,
    apart: bool = False,
) -> tuple[Tensor, ...]:
    """`Results`, and what is kept for the backward; `state` is updated in place in training.

    What is kept is `Kept`, or its first two tensors: then the second holds the unit class centres too,
    which costs the host less. With `apart`, or where the optimiser left them, they have their own tensors.
    """
    if call.training and state:
        torch.autograd.graph.increment_version(state)
    kept = class_centres.unit_rows(weight, call.precision, call.training) or ()
    signature = (
        *_signature(embeddings, weight), labels.dtype, labels.stride(), call, needs_embeddings, len(kept),
        apart, len(state),
        class_margins is None or (class_margins.dtype, class_margins.stride()),
    )  # fmt: skip
    of_classes = () if class_margins is None else (class_margins,)
    if known := replay.found(signature):
        return known(embeddings, weight, labels, *state, *of_classes, *kept)
    num_states, num_margins = len(state), len(of_classes)

    def compute(
        embeddings: Tensor, weight: Tensor, labels: Tensor, *others: Tensor
    ) -> tuple[Tensor, ...]:
        state, others = others[:num_states], others[num_states:]
        margins, kept = others[:num_margins], others[num_margins:]
        class_margins, w = margins[0] if margins else None, UnitRows(*kept) if kept else None
        return loss_forward.forward(
            embeddings, weight, labels, state, class_margins, w, call, needs_embeddings, apart
        )

    tensors = (embeddings, weight, labels, *state, *of_classes, *kept)
    return replay.run(signature, compute, *tensors)


def statistics(rows: Tensor, target_cosine: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Modulation (3,), number of hard negatives (B,), whether the target is nearest (B,); one kernel.

    `rows` is that of `Kept`, of a call with `keep`.
    """

    def compute(rows: Tensor, target_cosine: Tensor) -> tuple[Tensor, ...]:
        num_rows = len(target_cosine)
        stats = memory.rows_of(rows, num_rows, keep).stats
        modulation = stats.new_empty(3)
        num_hard = stats.new_empty(num_rows, dtype=torch.int64)
        correct = stats.new_empty(num_rows, dtype=torch.bool)
        with launch.on_device(stats.device):
            launch.start(
                reductions.statistics_kernel, 1,
                stats, target_cosine, modulation, num_hard, correct, num_rows, BLOCK=BLOCK,
            )  # fmt: skip
        return modulation, num_hard, correct

    signature = ("statistics", target_cosine.shape, rows.device, keep)
    modulation, num_hard, correct = replay.run(signature, compute, rows, target_cosine)
    return modulation, num_hard, correct


def backward(
    embeddings: Tensor,
    weight: Tensor,
    kept: tuple[Tensor, ...],
    d_loss: Tensor | None,
    d_losses: Tensor | None,
    call: Call,
    needs_embeddings: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients in the embeddings (B, D) and the class centres (C, D), empty where not needed.

    `kept` is what `forward` gave. `d_loss` (0-d) and `d_losses` (B,) are the gradients in the reduced loss
    and in the samples' losses; None is zero.
    """
    given = tuple(gradient for gradient in (d_loss, d_losses) if gradient is not None)
    num_kept = len(kept)
    signature = (
        *_signature(embeddings, weight), d_loss is None,
        None if d_losses is None else d_losses.stride(), call,
        needs_embeddings, needs_weight, kept[1].shape[0], num_kept,
    )  # fmt: skip
    # Whoever packs and unpacks saved tensors may have put them somewhere else.
    is_aligned = not (kept[0].data_ptr() | kept[1].data_ptr()) % 16
    if is_aligned and num_kept > 2:
        is_aligned = not (kept[2].data_ptr() | kept[3].data_ptr()) % 16
    if is_aligned and (known := replay.found(signature)):
        d_embeddings, d_weight = known(embeddings, weight, *kept, *given)
        return d_embeddings, d_weight

    def compute(embeddings: Tensor, weight: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        left = list(others[num_kept:])
        gradients = [None if gradient is None else left.pop(0) for gradient in (d_loss, d_losses)]
        return _backward(
            embeddings, weight, others[:num_kept], gradients[0], gradients[1], call,
            needs_embeddings, needs_weight,
        )  # fmt: skip

    tensors = (embeddings, weight, *kept, *given)
    if not is_aligned:
        return compute(*tensors)
    d_embeddings, d_weight = replay.run(signature, compute, *tensors)
    return d_embeddings, d_weight


def _backward(
    embeddings: Tensor,
    weight: Tensor,
    kept: tuple[Tensor, ...],
    d_loss: Tensor | None,
    d_losses: Tensor | None,
    call: Call,
    needs_embeddings: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    (num_rows, dim), n = embeddings.shape, numbers_of(call)
    rows, apart = memory.rows_of(kept[0], num_rows, call.keep), kept[2:]
    passes = memory.passes_of(kept[1], num_rows, len(weight), dim, call, with_w=not apart)
    w = UnitRows(*apart) if apart else UnitRows(passes.w, passes.inverse_w)
    with launch.on_device(embeddings.device):
        factors = _factors(rows, d_loss, d_losses, num_rows, call)
        needed = Saved(
            embeddings, weight, passes.known, rows.numbers, passes.direction,
            UnitRows(passes.x, passes.inverse_x), w, passes.flags,
        )  # fmt: skip
        if call.keep:
            return kept_backward.gradients(
                needed, passes.exponentials, factors, n, needs_embeddings, needs_weight
            )
        return of_classes.gradients(needed, factors, n, needs_embeddings, needs_weight)


def _factors(
    rows: memory.Rows, d_loss: Tensor | None, d_losses: Tensor | None, num_rows: int, call: Call
) -> Factors:
    """Those of the forward, if only the reduced loss has a gradient."""
    with_length = call.target in OF_LENGTHS
    num_factors = slots.NUM_FACTORS + with_length
    if d_losses is None and d_loss is not None:
        unscale = rows.numbers[slots.UNSCALE.value]
        return Factors(rows.factors[:num_factors], unscale, d_loss, signed=False)
    numbers, num_padded = rows.numbers, rows.saved.shape[1]
    factors = empty_factors(rows.saved, num_factors, num_padded)
    launch.start(
        reductions.factors_kernel, 1,
        rows.saved, numbers, numbers if d_loss is None else d_loss,
        numbers if d_losses is None else d_losses, factors.rows, factors.unscale, factors.outer,
        num_rows, num_padded, 0 if d_losses is None else d_losses.stride(0), boost(call),
        MEAN=call.mean, OF_LOSS=d_loss is not None, OF_ROWS=d_losses is not None,
        IS_KEPT=call.keep, WITH_LENGTH=with_length, BLOCK=block_of_factors(num_padded),
    )  # fmt: skip
    return factors


def _signature(embeddings: Tensor, weight: Tensor) -> tuple[object, ...]:
    """All that compiled code depends on; memory allocated here is always aligned."""
    return (
        embeddings.device,
        embeddings.dtype, embeddings.shape, embeddings.stride(), embeddings.data_ptr() % 16,
        weight.dtype, weight.shape, weight.stride(), weight.data_ptr() % 16,
    )  # fmt: skip


loss.work = loss.Work(forward, backward, statistics)
margin_loss = loss.margin_loss
