"""The primitive whose backward makes a step of SGD on the class centres, one chunk after another.

The gradient of a chunk is written in float32 to memory that all chunks use in turn, and then the step is
made on its rows. The gradient of the embeddings is that of the old class centres: a chunk has its part in
it before its step, and the targets' centres are set aside before the first step.

Unit rows of all class centres are a second copy of them, from the forward to the end of the backward. Where
this takes too much of the memory, both passes make the unit rows of a chunk when they come to it.

On the host; everything here depends only on shapes, and nothing waits for the device.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusedface.kernels.gpu import (
    backward,
    class_centres,
    forward,
    launch,
    layout,
    row_update,
)
from fusedface.kernels.gpu.arguments import Numbers, UnitRows
from fusedface.kernels.gpu.backward import Factors, Saved
from fusedface.kernels.gpu.class_chunks import Chunk, in_chunks
from fusedface.kernels.gpu.normalised import Turns, unit_rows
from fusedface.kernels.interface.update import CentreUpdate

GROUP = 4  # columns of `row_update_kernel` that share random bits
PROGRAM_ELEMENTS = 1024  # of class centres that one of its programs takes
BLOCK = 1024  # rows that the one program of `step_numbers_kernel` takes at a time
# Of a device's memory, for class centres, momentum and unit rows together: above it there are no unit rows
# of all class centres. The other half is for the network and its activations.
KEPT_SHARE = 0.5


def cosine_lse(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    threshold: Tensor,
    linear: Tensor,
    numbers: Numbers,
    update: CentreUpdate,
) -> tuple[Tensor, Tensor, Tensor]:
    """cos_y (B,), lse (B,) and statistics (5, B); arguments as in `forward.forward`."""
    run: Any = _Learning.apply
    if torch.compiler.is_compiling():  # the loop over chunks stays out of the graph
        run = torch.compiler.disable(run)
    return run(embeddings, weight, labels, threshold, linear, numbers, update)


class _Learning(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        threshold: Tensor,
        linear: Tensor,
        numbers: Numbers,
        update: CentreUpdate,
    ) -> tuple[Tensor, Tensor, Tensor]:
        needs_embeddings = ctx.needs_input_grad[0]
        given = (embeddings, weight, labels.contiguous(), threshold, linear, numbers)
        if _keeps_unit_rows(weight, update, numbers.precision):
            out = forward.forward(*given, needs_embeddings)
        else:
            size = _chunk_size(embeddings, weight, numbers.precision)
            out = forward.forward_in_chunks(*given, needs_embeddings, size)
        ctx.mark_non_differentiable(out.stats)
        # Saved tensors are freed after the backward. The class centres, changed before it, are an error.
        ctx.save_for_backward(
            *given[:-1], out.lse, out.direction, *out.x, *out.w, out.flags,
        )  # fmt: skip
        ctx.numbers, ctx.update = numbers, update
        return out.cos_y, out.lse, out.stats

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        d_cos_y, d_lse = (gradient.contiguous() for gradient in grad_outputs[:2])
        embeddings, weight, labels, threshold, linear, lse, direction, *kept, flags = (
            ctx.saved_tensors
        )
        x, w = UnitRows(*kept[:2]), UnitRows(*kept[2:])
        saved = Saved(embeddings, weight, labels, linear, direction, x, w, flags)
        numbers: Numbers = ctx.numbers
        with launch.on_device(embeddings.device):
            factors = backward.row_factors(saved, threshold, lse, d_cos_y, d_lse, numbers)
            step = _Step(weight, ctx.update, d_cos_y, d_lse, numbers.scale)
            d_embeddings = _gradient(saved, factors, numbers, step, ctx.needs_input_grad[0])
            step.end()
        return d_embeddings, *[None] * 6


def _keeps_unit_rows(weight: Tensor, update: CentreUpdate, precision: str) -> bool:
    """Whether there is memory for unit rows of all class centres, if `update` does not say.

    Only shapes and the device decide, and not what is free now: so a run that resumes decides as before.
    """
    if update.keeps_unit_rows is not None:
        return update.keeps_unit_rows
    memory = layout.memory(weight.device)
    if memory is None:
        return True
    whole = weight if update.sampled is None else update.sampled.weight
    lasting = [whole] if update.momentum_buffer is None else [whole, update.momentum_buffer]
    held = sum(tensor.numel() * tensor.itemsize for tensor in lasting)
    return held + layout.unit_bytes(weight.shape, precision) <= KEPT_SHARE * memory


def _chunk_size(embeddings: Tensor, weight: Tensor, precision: str) -> int:
    num_classes, dim = weight.shape
    return layout.update_classes(len(embeddings), num_classes, dim, precision)


def _gradient(
    saved: Saved, factors: Factors, numbers: Numbers, step: "_Step", needs_embeddings: bool
) -> Tensor | None:
    """The gradient (B, D) in the embeddings; class centres make their step on the way."""
    weight, precision = saved.weight, numbers.precision
    size = _chunk_size(saved.embeddings, weight, precision)
    gradient = factors.unscale.new_empty(min(size, len(weight)), weight.shape[1])
    before = _of_targets(saved, precision) if needs_embeddings else saved
    turns = None if len(saved.w.rows) else Turns(weight, len(gradient), precision)
    scratch = None
    if not layout.is_narrow(weight.shape[1], precision):
        scratch = backward.scratch_of(saved, factors, size, needs_embeddings)
    for chunk in in_chunks(weight, saved.labels, saved.flags, size):
        part, here = _part(saved, chunk, turns), gradient[: len(chunk.weight)]
        if scratch is None:
            backward.centre_gradient(part, factors, numbers, here)
        else:
            is_later = chunk.first > 0
            backward.chunk_gradient(part, factors, numbers, 0, size, scratch, here, is_later)
        step.make(chunk.first, here)
    if not needs_embeddings:
        return None
    parts = saved.direction[None] if scratch is None else scratch.parts
    d_embeddings = torch.empty_like(saved.embeddings, memory_format=torch.contiguous_format)
    backward.embedding_gradient(before, factors, numbers, parts, d_embeddings)
    return d_embeddings


def _part(saved: Saved, chunk: Chunk, turns: Turns | None) -> Saved:
    """The same for a chunk of the classes; its unit rows are made by `turns`, or are there."""
    first, weight, labels, flags = chunk
    w = UnitRows(saved.w.rows[first:], saved.w.inverse[first:])
    if turns is not None:
        w = turns.unit_rows(weight)
    return saved._replace(weight=weight, labels=labels, flags=flags, w=w)


def _of_targets(saved: Saved, precision: str) -> Saved:
    """The same with the class centres of the batch's targets only, in a copy, for `embedding_gradient`."""
    classes = saved.labels.clamp_min(0)
    weight = saved.weight[classes]
    return saved._replace(
        weight=weight,
        w=unit_rows(weight, precision, layout.padded_rows(len(classes))),
        labels=torch.arange(len(classes), device=classes.device),
    )


class _Step:
    """One step of SGD, a chunk of rows at a time; see `sgd.RowsSGD`, which does the same without Triton."""

    def __init__(
        self, weight: Tensor, update: CentreUpdate, d_cos_y: Tensor, d_lse: Tensor, scale: float
    ) -> None:
        update.check_sample()
        self._weight = weight if update.sampled is None else update.sampled.weight
        self._update = update
        first = update.first_class
        self._first_class = first if isinstance(first, Tensor) else update.seed.new_full((), first)
        self._numbers = d_lse.new_empty(row_update.NUM_STEP_NUMBERS)
        launch.start(
            row_update.step_numbers_kernel, 1,
            d_cos_y, d_lse, update.skip, update.lr, update.loss_scale, self._numbers,
            len(d_lse), scale, BLOCK_B=BLOCK,
        )  # fmt: skip

    def make(self, first: int, gradient: Tensor) -> None:
        """Change rows [first, first + K) of the class centres, or of a sample, by their gradient (K, D)."""
        update, w = self._update, self._weight
        v = w if update.momentum_buffer is None else update.momentum_buffer
        num, dim = gradient.shape
        groups = layout.power_of_2(layout.ceil_div(dim, GROUP))
        block = max(1, min(16, PROGRAM_ELEMENTS // (GROUP * groups)))
        # A kernel needs a tensor for each argument: for a missing one it gets another, and never reads it.
        launch.start(
            row_update.row_update_kernel, layout.ceil_div(num, block),
            gradient, self._numbers, update.seed, self._first_class,
            update.seed if update.sampled is None else update.sampled.rows, w, v,
            first, num, dim, *w.stride(), *v.stride(), float(update.momentum),
            float(update.weight_decay),
            MOMENTUM=update.momentum_buffer is not None, NESTEROV=bool(update.nesterov),
            IS_SAMPLED=update.sampled is not None, BLOCK_N=block, BLOCK_G=groups,
        )  # fmt: skip

    def end(self) -> None:
        """Tell PyTorch what was written, so that unit rows and other graphs of old centres are not used."""
        torch.autograd.graph.increment_version(self._weight)
        if self._update.momentum_buffer is not None:
            torch.autograd.graph.increment_version(self._update.momentum_buffer)
        class_centres.forget(self._weight)
