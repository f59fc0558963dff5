"""The forward of a whole margin loss: small kernels around the pass over the classes."""

import torch
from torch import Tensor

from fusedface.kernels.gpu import (
    combination,
    launch,
    layout,
    margin,
    memory,
    normalised,
    reductions,
    slots,
)
from fusedface.kernels.gpu import rows as row_kernels
from fusedface.kernels.gpu.arguments import UnitRows
from fusedface.kernels.gpu.forward import FLAGS_BLOCK, Sums, num_flag_programs
from fusedface.kernels.gpu.loss_operators import Results, numbers_of
from fusedface.kernels.gpu.memory import Passes, Rows
from fusedface.kernels.gpu.normalised import empty_unit_rows
from fusedface.kernels.interface.whole import Call
from fusedface.kernels.margins.form import OF_LENGTHS, Average

ROWS = 4  # that a program of `rows_kernel` takes
BLOCK = 1024  # rows that the one program of a kernel takes at a time


def forward(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    state: tuple[Tensor, ...],
    class_margins: Tensor | None,
    w: UnitRows | None,
    call: Call,
    needs_embeddings: bool,
    apart: bool,
) -> tuple[Tensor, ...]:
    """`Results` and what is kept, see `whole.forward`; `w` are unit class centres that are known."""
    (num_rows, dim), num_classes = embeddings.shape, len(weight)
    with_direction = memory.has_direction(dim, call, needs_embeddings)
    with_w = not apart and w is None
    num_states = len(state) - (call.weighting > 0)
    size = memory.bytes_of_passes(num_rows, num_classes, dim, call, with_direction, with_w)
    pieces = (
        embeddings.new_empty(memory.num_of_rows(num_rows, call.keep), dtype=torch.float32),
        embeddings.new_empty(size, dtype=torch.uint8),
    )
    rows = memory.rows_of(pieces[0], num_rows, call.keep)
    passes = memory.passes_of(pieces[1], num_rows, num_classes, dim, call, with_w)
    with launch.on_device(embeddings.device):
        scratch = _unit_embeddings(embeddings, weight, labels, passes, call)
        is_known = w is not None
        if with_w:
            w = UnitRows(passes.w, passes.inverse_w)
        elif w is None:
            w = empty_unit_rows(weight, call.precision, layout.padded_classes(num_classes))
        target_cosine, fits = _margin(
            passes.known,
            scratch,
            state[:num_states],
            class_margins,
            rows,
            weight,
            w,
            is_known,
            call,
        )
        per_sample = _losses(rows, passes, w, scratch, num_classes, call)
        reduced = _reduced(passes.known, per_sample, rows, state[num_states:], num_states, call)
    return *Results(reduced, per_sample, target_cosine, fits), *pieces, *(() if with_w else w)


def _unit_embeddings(
    embeddings: Tensor, weight: Tensor, labels: Tensor, passes: Passes, call: Call
) -> Tensor:
    """`scratch` with target cosines and lengths; unit embeddings, their classes and flags are written."""
    num_rows, dim = embeddings.shape
    operands = layout.operands(call.precision)
    num_padded, padded_dim = passes.x.shape
    scratch = embeddings.new_empty(slots.NUM_SCRATCH, num_padded, dtype=torch.float32)
    launch.start(
        row_kernels.rows_kernel, num_padded // ROWS + num_flag_programs(passes.flags),
        embeddings, weight, labels, passes.x, passes.inverse_x, passes.known, scratch, passes.flags,
        num_rows, num_padded, len(weight), passes.flags.shape[1], call.ignore_index, dim,
        *labels.stride(), *embeddings.stride(), *weight.stride(),
        DIM=padded_dim, PRECISION=operands.dot, BLOCK_D=layout.power_of_2(padded_dim),
        BLOCK_N=ROWS, BLOCK_F=FLAGS_BLOCK,
    )  # fmt: skip
    return scratch


def _margin(
    known: Tensor, scratch: Tensor, state: tuple[Tensor, ...], class_margins: Tensor | None,
    rows: Rows, weight: Tensor, w: UnitRows, is_known: bool, call: Call,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Target cosine (B,) and whether all labels fit; T, T' and threshold are written, and `w` if needed."""
    target_cosine = scratch.new_empty(len(known))
    fits = known.new_empty((), dtype=torch.bool)
    num_padded, padded_dim = w.rows.shape
    launch.start(
        margin.margin_kernel, 1 if is_known else 1 + num_padded // normalised.ROWS_TILE,
        known, scratch, *_two(state, rows.numbers),
        rows.numbers if class_margins is None else class_margins,
        rows.saved, rows.numbers, target_cosine, fits, weight, *w,
        len(known), scratch.shape[1], call.n0, call.n1, call.n2, call.n3, call.n4,
        call.momentum, call.linear, *weight.shape, *weight.stride(),
        KIND=call.target, NUM_STATES=len(state),
        AVERAGE=call.average if call.training else Average.NOTHING.value,
        STATE_IS_LINEAR=call.state_is_linear, BLOCK=BLOCK,
        DIM=padded_dim, PRECISION=layout.operands(call.precision).dot,
        BLOCK_D=layout.power_of_2(padded_dim), BLOCK_N=normalised.ROWS_TILE,
    )  # fmt: skip
    return target_cosine, fits


def _losses(
    rows: Rows, passes: Passes, w: UnitRows, scratch: Tensor, num_classes: int, call: Call
) -> Tensor:
    """Losses (B,), by the pass over the classes; fills what `rows` and `passes` still lack."""
    num_rows, n = len(passes.known), numbers_of(call)
    x, with_direction = UnitRows(passes.x, passes.inverse_x), len(passes.direction) > 0
    sums = Sums(
        x, w, passes.known, rows.saved, rows.numbers, passes.flags, num_classes, n, with_direction,
        passes.exponentials if call.keep else None,
    )  # fmt: skip
    totals, weighted = sums.over_classes()
    per_sample = scratch.new_empty(num_rows)
    num_splits = totals.shape[1]
    launch.start(
        combination.finish_kernel, num_rows,
        totals, weighted, x.rows, w.rows, passes.known, scratch, rows.numbers, rows.saved,
        per_sample, rows.stats, passes.direction,
        passes.exponentials if call.keep else rows.stats,
        num_rows, scratch.shape[1], num_classes, num_splits, passes.exponentials.shape[1],
        *n.scalars, sums.reference.least_total, call.scale, call.gamma, call.lse_shift,
        WITH_DIRECTION=with_direction, KEEP=call.keep, EXACT=call.exact, FOCAL=call.gamma != 0.0,
        WITH_LENGTH=call.target in OF_LENGTHS,
        BLOCK_S=layout.power_of_2(num_splits), BLOCK_D=layout.power_of_2(x.rows.shape[1]),
        **sums.constants,
    )  # fmt: skip
    return per_sample


def _reduced(
    known: Tensor, per_sample: Tensor, rows: Rows, bound: tuple[Tensor, ...], num_states: int, call: Call
) -> Tensor:  # fmt: skip
    """The reduced loss (0-d); samples are weighed, the factors of its gradient are written."""
    reduced, num_padded = per_sample.new_empty(()), rows.saved.shape[1]
    launch.start(
        reductions.reduce_kernel, 1,
        known, per_sample, rows.saved, rows.numbers, bound[0] if bound else rows.numbers,
        reduced, rows.factors,
        len(per_sample), num_padded, boost(call), call.first_share, call.growth,
        MEAN=call.mean, IS_KEPT=call.keep, WITH_LENGTH=call.target in OF_LENGTHS,
        WEIGHTING=call.weighting, LEARNS=call.training, BOUND=slots.STATE.value + num_states,
        BLOCK=block_of_factors(num_padded),
    )  # fmt: skip
    return reduced


def boost(call: Call) -> float:
    """What the largest factor of a backward becomes."""
    return 2.0 ** layout.operands(call.precision).shift


def block_of_factors(num_padded: int) -> int:
    """Rows that `reductions.write_factors` takes at a time."""
    return min(BLOCK, num_padded & -num_padded)


def _two(state: tuple[Tensor, ...], filler: Tensor) -> list[Tensor]:
    return [*state, filler, filler][:2]
