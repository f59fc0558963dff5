"""A step of SGD on class centres; it leaves their unit rows for the next forward (`class_centres`)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.gpu import launch, layout, normalised, update
from fusedface.kernels.gpu.arguments import UnitRows
from fusedface.kernels.gpu.class_centres import (
    Centres,
    fits,
    follow,
    forget,
    keep_in_graphs,
    known,
)

__all__ = ["Rates", "follow", "forget", "keep_in_graphs", "refresh", "step"]

UPDATE_ELEMENTS = 2048  # elements of class centres that one program of `sgd_kernel` takes


class Rates(NamedTuple):
    """The settings of a group of `torch.optim.SGD`."""

    lr: float | Tensor  # or 0-d on their device: every replay of a captured step reads it
    momentum: float
    weight_decay: float
    nesterov: bool


@torch.no_grad()
def step(
    weight: Tensor,
    grad: Tensor,
    momentum_buffer: Tensor | None,
    rates: Rates,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
) -> None:
    """Make a step of SGD in place, and write unit rows if a forward in training has set their precision.

    With a rate on the device the step is one to be captured, or a rehearsal of it, which must start the
    same kernels: it writes unit rows only if graphs keep them.

    Args:
        weight: class centres (C, D), contiguous, known to `follow`.
        grad: their gradient (C, D), contiguous, times `grad_scale`.
        momentum_buffer: (C, D), zeros before the first step; None without momentum.
        rates: of the step.
        grad_scale: one number on the device, or None for 1.
        found_inf: one number on the device: unless it is 0, no class centre changes.
    """
    centres = known[weight]
    unit = _memory(centres, weight, lr_is_read=isinstance(rates.lr, Tensor))
    launched = _Step(weight, grad, momentum_buffer, rates, grad_scale, found_inf)
    precision = centres.wanted or "float32"
    with launch.on_device(weight.device):
        launched.run(launch.start, unit, precision)
        kernel = (precision, *launched.constants())
        if unit is not None and not centres.in_graphs and kernel not in centres.loaded:
            # What a captured step starts, when nothing can be loaded.
            launched.run(launch.load, None, precision)
            centres.loaded.add(kernel)
    torch.autograd.graph.increment_version(weight)
    centres.forget()
    if unit is not None:
        centres.keep(weight, unit, precision)


class _Step(NamedTuple):
    """The arguments of `step`."""

    weight: Tensor
    grad: Tensor
    momentum_buffer: Tensor | None
    rates: Rates
    grad_scale: Tensor | None
    found_inf: Tensor | None

    def constants(self) -> tuple[bool, ...]:
        """Which kernel it is, besides the precision and the unit rows."""
        return (
            self.momentum_buffer is not None, self.rates.nesterov, self.grad_scale is not None,
            self.found_inf is not None, isinstance(self.rates.lr, Tensor),
        )  # fmt: skip

    def run(self, how: Callable[..., object], unit: UnitRows | None, precision: str) -> None:
        """`how`, a function of `launch`, with the kernel and its arguments."""
        weight, rates = self.weight, self.rates
        num, dim = weight.shape
        padded_dim = layout.padded_dim(dim, precision)
        block_d = layout.power_of_2(padded_dim)
        block_n = max(1, min(16, UPDATE_ELEMENTS // block_d))
        momentum, nesterov, is_scaled, may_skip, lr_is_read = self.constants()
        # A kernel needs a tensor for each argument: for a missing one it gets another, and never reads it.
        rows, inverse = (weight, weight) if unit is None else unit
        how(
            update.sgd_kernel, layout.padded_classes(num) // block_n,
            self.grad, self.grad_scale if is_scaled else weight,
            self.found_inf if may_skip else weight, rates.lr if lr_is_read else weight,
            weight, self.momentum_buffer if momentum else weight, rows, inverse,
            num, dim,
            0.0 if lr_is_read else float(rates.lr), float(rates.momentum), float(rates.weight_decay),
            DIM=padded_dim, PRECISION=layout.operands(precision).dot,
            MOMENTUM=momentum, NESTEROV=nesterov, IS_SCALED=is_scaled, MAY_SKIP=may_skip,
            LR_IS_READ=lr_is_read, WITH_UNIT_ROWS=unit is not None,
            BLOCK_D=block_d, BLOCK_N=block_n,
        )  # fmt: skip


def _memory(centres: Centres, weight: Tensor, *, lr_is_read: bool) -> UnitRows | None:
    """Where a step writes unit rows of the wanted precision; None if it writes none."""
    unit, wanted, captured = centres.unit, centres.wanted, centres.captured
    fitting = unit is not None and centres.precision == wanted and fits(unit, weight, wanted)
    is_captured = launch.is_capturing(weight.device)
    if is_captured and not (centres.in_graphs and fitting):
        centres.may_keep = False
    if not (centres.may_keep and wanted) or (lr_is_read and not centres.in_graphs):
        return None
    if is_captured:
        centres.capture()
    if fitting:
        return unit
    if captured is not None:  # only its memory is used from then on
        return captured[0] if captured[1] == wanted and fits(captured[0], weight, wanted) else None
    return normalised.empty_unit_rows(weight, wanted, layout.padded_classes(len(weight)))


@torch.no_grad()
def refresh(weight: Tensor) -> None:
    """Before a capture or a replay: make the unit rows those of the class centres as they are now."""
    centres = known[weight]
    unit, precision = centres.captured or (centres.unit, centres.precision)
    if unit is None or centres.holds(weight, precision) or not fits(unit, weight, precision):
        return
    with launch.on_device(weight.device):
        normalised.fill_unit_rows(unit, weight, precision)
    centres.keep(weight, unit, precision)
