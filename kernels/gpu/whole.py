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
    layout,
    loss,
    loss_forward,
    memory,
    reductions,
    replay,
    slots,
)
from fusedface.kernels.gpu.arguments import UnitRows
from fusedface.kernels.gpu.backward import Factors, Saved
from fusedface.kernels.gpu.loss_forward import BLOCK
from fusedface.kernels.gpu.loss_operators import NUM_KEPT, Kept, numbers_of
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
) -> tuple[Tensor, ...]:
    """`Results` and `Kept`; `state` is updated in place in training."""
    if call.training and state:
        torch.autograd.graph.increment_version(state)
    kept = class_centres.unit_rows(weight, call.precision, call.training) or ()
    signature = (
        *_signature(embeddings, weight), labels.dtype, labels.stride(), call, needs_embeddings, len(kept)
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
            embeddings, weight, labels, state, class_margins, w, call, needs_embeddings
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
    kept: Kept,
    d_loss: Tensor | None,
    d_losses: Tensor | None,
    call: Call,
    needs_embeddings: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients in the embeddings (B, D) and the class centres (C, D), empty where not needed.

    `d_loss` (0-d) and `d_losses` (B,) are the gradients in the reduced loss and in the samples' losses;
    None is zero.
    """
    given = tuple(gradient for gradient in (d_loss, d_losses) if gradient is not None)
    rows, passes, w, inverse_w = kept
    signature = (
        *_signature(embeddings, weight), d_loss is None,
        None if d_losses is None else d_losses.stride(), call,
        needs_embeddings, needs_weight, len(passes),
    )  # fmt: skip
    # Whoever packs and unpacks saved tensors may have put them somewhere else.
    is_aligned = (
        not (rows.data_ptr() | passes.data_ptr() | w.data_ptr() | inverse_w.data_ptr()) % 16
    )
    if is_aligned and (known := replay.found(signature)):
        d_embeddings, d_weight = known(embeddings, weight, *kept, *given)
        return d_embeddings, d_weight

    def compute(embeddings: Tensor, weight: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        left = list(others[NUM_KEPT:])
        gradients = [None if gradient is None else left.pop(0) for gradient in (d_loss, d_losses)]
        return _backward(
            embeddings, weight, Kept(*others[:NUM_KEPT]), gradients[0], gradients[1], call,
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
    kept: Kept,
    d_loss: Tensor | None,
    d_losses: Tensor | None,
    call: Call,
    needs_embeddings: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    (num_rows, dim), n = embeddings.shape, numbers_of(call)
    numbers, saved, _ = memory.rows_of(kept.rows, num_rows, call.keep)
    passes = memory.passes_of(kept.passes, num_rows, len(weight), dim, call)
    num_padded = saved.shape[1]
    with launch.on_device(embeddings.device):
        with_length = call.target in OF_LENGTHS
        num_factors = slots.NUM_FACTORS + with_length
        factors = Factors(saved.new_empty(num_factors, num_padded), saved.new_empty(()))
        launch.start(
            reductions.factors_kernel, 1,
            saved, numbers, numbers if d_loss is None else d_loss,
            numbers if d_losses is None else d_losses, *factors,
            num_rows, num_padded, 0 if d_losses is None else d_losses.stride(0),
            2.0 ** layout.operands(n.precision).shift,
            MEAN=call.mean, OF_LOSS=d_loss is not None, OF_ROWS=d_losses is not None,
            IS_KEPT=call.keep, WITH_LENGTH=with_length, BLOCK=min(BLOCK, num_padded & -num_padded),
        )  # fmt: skip
        needed = Saved(
            embeddings, weight, passes.known, numbers, passes.direction,
            UnitRows(passes.x, passes.inverse_x), UnitRows(kept.w, kept.inverse_w), passes.flags,
        )  # fmt: skip
        if call.keep:
            return kept_backward.gradients(
                needed, passes.exponentials, factors, n, needs_embeddings, needs_weight
            )
        return of_classes.gradients(needed, factors, n, needs_embeddings, needs_weight)


def _signature(embeddings: Tensor, weight: Tensor) -> tuple[object, ...]:
    """All that compiled code depends on; memory allocated here is always aligned."""
    return (
        embeddings.device,
        embeddings.dtype, embeddings.shape, embeddings.stride(), embeddings.data_ptr() % 16,
        weight.dtype, weight.shape, weight.stride(), weight.data_ptr() % 16,
    )  # fmt: skip


loss.work = loss.Work(forward, backward, statistics)
margin_loss = loss.margin_loss
