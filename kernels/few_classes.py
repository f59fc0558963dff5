"""The primitive for one class or none, as a process may hold: rows lack negatives, which backends need."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusedface.kernels.interface.negatives import NegativeStats
from fusedface.kernels.interface.primitive import CosineLse, Spec, compute_dtype
from fusedface.kernels.interface.update import CentreUpdate
from fusedface.kernels.reference import cosines
from fusedface.kernels.sgd import RowsSGD


def cosine_lse(
    embeddings: Tensor, weight: Tensor, labels: Tensor, threshold: Tensor, spec: Spec
) -> CosineLse:
    """See `Primitive`."""
    if spec.update is not None and weight.requires_grad:
        weight = _Learn.apply(weight, spec.update, compute_dtype(embeddings, weight))
    cos = cosines(embeddings, weight).sum(dim=1)  # the only column, or nothing
    none = (labels >= 0) if len(weight) else torch.ones_like(labels, dtype=torch.bool)
    hard = (cos.detach() > threshold) & ~none
    negative = torch.where(hard, spec.hard.value(cos), cos)
    lse = (spec.scale * negative).masked_fill(none, -torch.inf)
    slope = spec.hard.slope(cos.detach())
    stats = NegativeStats(
        max_cosine=cos.detach().masked_fill(none, -torch.inf),
        num_hard=hard.to(cos.dtype),
        slope_min=slope.masked_fill(~hard, torch.inf),
        slope_max=slope.masked_fill(~hard, -torch.inf),
        slope_sum=slope * hard,
    )
    return CosineLse(cos, lse, stats)


class _Learn(torch.autograd.Function):
    """Class centres whose backward makes a step of SGD instead of handing on a gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, update: CentreUpdate, dtype: torch.dtype) -> Tensor:
        ctx.update = update
        ctx.save_for_backward(weight)  # changed in place before the backward, it is an error
        return weight.to(dtype, copy=True)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, d_weight: Tensor
    ) -> tuple[None, None, None]:
        (weight,) = ctx.saved_tensors
        if len(weight) == 0:
            return None, None, None
        sgd = RowsSGD(weight, ctx.update, d_weight)
        if not sgd.does_nothing:
            sgd.step(0, d_weight * sgd.unscale)
        return None, None, None
