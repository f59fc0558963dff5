"""The forward of a whole margin loss: small kernels around the pass over the classes."""

import torch
from torch import Tensor

from fusedface.kernels.gpu import combination, launch, layout, margin, reductions, rows, slots
from fusedface.kernels.gpu.arguments import UnitRows
from fusedface.kernels.gpu.forward import Sums, tile_flags, unit_rows
from fusedface.kernels.gpu.loss_operators import Kept, Results, numbers_of
from fusedface.kernels.interface.whole import Call
from fusedface.kernels.margins.form import Average

ROWS = 4  # that a program of `rows_kernel` takes
BLOCK = 1024  # rows that the one program of a kernel takes at a time


def forward(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    state: tuple[Tensor, ...],
    w: UnitRows | None,
    call: Call,
    needs_embeddings: bool,
) -> tuple[Tensor, ...]:
    """`Results` and `Kept`; `w` are unit class centres that are known, `state` is updated in training."""
    (num_rows, dim), num_classes = embeddings.shape, len(weight)
    with launch.on_device(embeddings.device):
        x, known, scratch = _rows(embeddings, weight, labels, call)
        saved = scratch.new_empty(slots.NUM_SAVED + call.keep, scratch.shape[1])
        numbers = scratch.new_empty(slots.NUM_NUMBERS)
        target_cosine, fits = _margin(known, scratch, state, saved, numbers, call)
        if w is None:
            w = unit_rows(weight, call.precision, layout.padded_classes(num_classes))
        flags = tile_flags(known, num_classes)
        with_direction = not call.keep and layout.has_direction(
            dim, call.precision, needs_embeddings
        )
        direction = scratch.new_empty(num_rows if with_direction else 0, x.rows.shape[1])
        exponentials = x.rows.new_empty(layout.kept_shape(num_rows, num_classes, call.keep))
        kept = Kept(numbers, known, saved, direction, *x, *w, flags, exponentials)
        per_sample, stats = _losses(kept, scratch, num_classes, with_direction, call)
        reduced = scratch.new_empty(())
        launch.start(
            reductions.reduce_kernel, 1,
            per_sample, numbers, reduced, num_rows, MEAN=call.mean, BLOCK=BLOCK,
        )  # fmt: skip
    return *Results(reduced, per_sample, target_cosine, stats, fits), *kept


def _rows(
    embeddings: Tensor, weight: Tensor, labels: Tensor, call: Call
) -> tuple[UnitRows, Tensor, Tensor]:
    """Unit embeddings, their classes (`Kept.known`), and `scratch` with target cosines and lengths."""
    num_rows, dim = embeddings.shape
    operands, padded_dim = layout.operands(call.precision), layout.padded_dim(dim, call.precision)
    num_padded = layout.padded_rows(num_rows)
    scratch = embeddings.new_empty(slots.NUM_SCRATCH, num_padded, dtype=torch.float32)
    known = labels.new_empty(num_rows, dtype=torch.int64)
    x = UnitRows(
        embeddings.new_empty(num_padded, padded_dim, dtype=operands.dtype),
        scratch.new_empty(num_padded),
    )
    launch.start(
        rows.rows_kernel, num_padded // ROWS,
        embeddings, weight, labels, *x, known, scratch,
        num_rows, num_padded, len(weight), call.ignore_index, dim,
        *labels.stride(), *embeddings.stride(), *weight.stride(),
        DIM=padded_dim, PRECISION=operands.dot, BLOCK_D=layout.power_of_2(padded_dim),
        BLOCK_N=ROWS,
    )  # fmt: skip
    return x, known, scratch


def _margin(
    known: Tensor,
    scratch: Tensor,
    state: tuple[Tensor, ...],
    saved: Tensor,
    numbers: Tensor,
    call: Call,
) -> tuple[Tensor, Tensor]:
    """Target cosine (B,) and whether all labels fit; T, T' and threshold are written."""
    target_cosine = scratch.new_empty(len(known))
    fits = known.new_empty((), dtype=torch.bool)
    launch.start(
        margin.margin_kernel, 1,
        known, scratch, *_two(state, numbers), saved, numbers, target_cosine, fits,
        len(known), scratch.shape[1], call.n0, call.n1, call.n2, call.momentum, call.linear,
        KIND=call.target, NUM_STATES=len(state),
        AVERAGE=call.average if call.training else Average.NOTHING.value,
        STATE_IS_LINEAR=call.state_is_linear, BLOCK=BLOCK,
    )  # fmt: skip
    return target_cosine, fits


def _losses(
    kept: Kept, scratch: Tensor, num_classes: int, with_direction: bool, call: Call
) -> tuple[Tensor, Tensor]:
    """Losses (B,) and statistics (5, B), by the pass over the classes; fills what `kept` still lacks."""
    num_rows, n = len(kept.known), numbers_of(call)
    sums = Sums(
        UnitRows(kept.x, kept.inverse_x), UnitRows(kept.w, kept.inverse_w), kept.known, kept.saved,
        kept.numbers, kept.flags, num_classes, n, with_direction,
        kept.exponentials if call.keep else None,
    )  # fmt: skip
    totals, weighted = sums.over_classes()
    per_sample, stats = scratch.new_empty(num_rows), scratch.new_empty(5, num_rows)
    num_splits = totals.shape[1]
    launch.start(
        combination.finish_kernel, num_rows,
        totals, weighted, kept.x, kept.w, kept.known, scratch, kept.numbers, kept.saved,
        per_sample, stats, kept.direction, kept.exponentials if call.keep else stats,
        num_rows, scratch.shape[1], num_classes, num_splits, kept.exponentials.shape[1], *n.scalars,
        sums.reference.least_total, call.scale, call.gamma,
        WITH_DIRECTION=with_direction, KEEP=call.keep, EXACT=call.exact, FOCAL=call.gamma != 0.0,
        BLOCK_S=layout.power_of_2(num_splits), BLOCK_D=layout.power_of_2(kept.x.shape[1]),
        **sums.constants,
    )  # fmt: skip
    return per_sample, stats


def _two(state: tuple[Tensor, ...], filler: Tensor) -> list[Tensor]:
    return [*state, filler, filler][:2]
