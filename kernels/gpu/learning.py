"""The primitive whose backward makes a step of SGD on the class centres, one chunk after another.

The gradient of a chunk is written in float32 to memory that all chunks use in turn, and then the step is
made on its rows. The gradient of the embeddings is that of the old class centres: unit rows are a copy that
no step writes, and the targets' centres are set aside before the first step.

On the host; everything here depends only on shapes, and nothing waits for the device.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusedface.kernels.gpu import backward, class_centres, forward, launch, layout, row_update
from fusedface.kernels.gpu.arguments import Numbers, UnitRows
from fusedface.kernels.gpu.backward import Factors, Saved
from fusedface.kernels.interface.update import CentreUpdate

GROUP = 4  # columns of `row_update_kernel` that share random bits
PROGRAM_ELEMENTS = 1024  # of class centres that one of its programs takes
BLOCK = 1024  # rows that the one program of `step_numbers_kernel` takes at a time


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
        labels = labels.contiguous()
        out = forward.forward(
            embeddings, weight, labels, threshold, linear, numbers, ctx.needs_input_grad[0]
        )
        ctx.mark_non_differentiable(out.stats)
        # Saved tensors are freed after the backward. The class centres, changed before it, are an error.
        ctx.save_for_backward(
            embeddings, weight, labels, threshold, linear, out.lse, out.direction, *out.x, *out.w,
            out.flags,
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


def _gradient(
    saved: Saved, factors: Factors, numbers: Numbers, step: "_Step", needs_embeddings: bool
) -> Tensor | None:
    """The gradient (B, D) in the embeddings; class centres make their step on the way."""
    (num_rows, dim), num_classes = saved.embeddings.shape, len(saved.weight)
    chunk = layout.update_classes(num_rows, num_classes, dim, numbers.precision)
    gradient = factors.unscale.new_empty(chunk, dim)
    d_embeddings = None
    if needs_embeddings:
        d_embeddings = torch.empty_like(saved.embeddings, memory_format=torch.contiguous_format)
    if layout.is_narrow(dim, numbers.precision):
        if d_embeddings is not None:
            backward.embedding_gradient(
                saved, factors, numbers, saved.direction[None], d_embeddings
            )
        for part, first in _parts(saved, chunk):
            here = gradient[: len(part.weight)]
            backward.centre_gradient(part, factors, numbers, here)
            step.make(first, here)
        return d_embeddings
    before = _of_targets(saved) if needs_embeddings else saved
    scratch = backward.scratch_of(saved, factors, chunk, needs_embeddings)
    for first in range(0, num_classes, chunk):
        backward.chunk_gradient(saved, factors, numbers, first, chunk, scratch, gradient, first)
        step.make(first, gradient[: num_classes - first])
    if d_embeddings is not None:
        backward.embedding_gradient(before, factors, numbers, scratch.parts, d_embeddings)
    return d_embeddings


def _parts(saved: Saved, chunk: int) -> list[tuple[Saved, int]]:
    """The same for some classes each, with the first of them; labels count from it."""
    starts = range(0, len(saved.weight), chunk)
    firsts = torch.arange(0, len(saved.weight), chunk, device=saved.labels.device)
    labels = saved.labels - firsts[:, None]  # a class of another part is no column of this one
    return [
        (
            saved._replace(
                weight=saved.weight[first : first + chunk],
                labels=labels[i],
                w=UnitRows(saved.w.rows[first:], saved.w.inverse[first:]),
                flags=saved.flags[:, first // layout.FLAG_CLASSES :],
            ),
            first,
        )
        for i, first in enumerate(starts)
    ]


def _of_targets(saved: Saved) -> Saved:
    """The same with the class centres of the batch's targets only, in a copy, for `embedding_gradient`."""
    classes = saved.labels.clamp_min(0)
    return saved._replace(
        weight=saved.weight[classes],
        w=UnitRows(saved.w.rows[classes], saved.w.inverse[classes]),
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
