"""SGD on some rows of the class centres: what a fused backward does with each chunk of their gradient."""

import torch
from torch import Tensor

from fusedface.kernels.checks import can_be_read
from fusedface.kernels.interface.random_bits import mix
from fusedface.kernels.interface.update import CentreUpdate
from fusedface.kernels.rounding import rounded


class RowsSGD:
    """One step of SGD, a chunk of rows at a time.

        g <- g / loss_scale + weight_decay w        v <- momentum v + g        w <- w - lr (g + momentum v)

    Without Nesterov w <- w - lr v (Sutskever et al., 2013, as torch.optim.SGD has it).

    Args:
        weight: the class centres (C, D), changed in place; or a copy of the rows `update.sampled`, and then
            those are changed.
        update: what to do.
        upstream: gradients (B, 1) from which all others follow; if one is not finite, nothing changes.

    Attributes:
        unscale: 1 / loss_scale, which the caller multiplies gradients with.

    Raises:
        RuntimeError: sampled class centres have changed since they were copied.
    """

    def __init__(self, weight: Tensor, update: CentreUpdate, *upstream: Tensor) -> None:
        update.check_sample()
        self.weight, self.update = weight, update
        self.unscale = update.loss_scale.reciprocal()
        self.skip = update.skip
        for gradient in upstream:
            self.skip = self.skip | ~gradient.isfinite().all()
        self.does_nothing = can_be_read(weight.device) and bool(self.skip)

    def step(self, first: int, gradient: Tensor) -> None:
        """Change rows [first, first + K) by their gradient (K, D), unscaled, which is overwritten."""
        update, of = self.update, self.update.sampled
        here = slice(first, first + len(gradient))
        rows = here if of is None else of.rows[here]
        w = self.weight[here].to(gradient.dtype)
        if update.weight_decay:
            gradient.add_(w, alpha=update.weight_decay)
        if update.momentum_buffer is not None:
            v = update.momentum_buffer[rows].to(gradient.dtype, copy=True)
            v.mul_(update.momentum).add_(gradient)
            gradient = gradient.add_(v, alpha=update.momentum) if update.nesterov else v.clone()
            self._store(update.momentum_buffer, rows, v, mix(update.seed))
        whole = self.weight if of is None else of.weight
        self._store(whole, rows, w - gradient.mul_(update.lr), update.seed)

    def _store(self, where: Tensor, rows: slice | Tensor, values: Tensor, seed: Tensor) -> None:
        if where.dtype == torch.bfloat16:
            numbers = rows.start if isinstance(rows, slice) else rows
            values = rounded(values, seed, numbers + self.update.first_class)
        if not can_be_read(where.device):
            values = torch.where(self.skip, where[rows], values.to(where.dtype))
        where[rows] = values.to(where.dtype)
