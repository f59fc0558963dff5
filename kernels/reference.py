"""The specification: plain PyTorch that materialises the (B, C) cosines, in any dtype, by autograd."""

import torch
from torch import Tensor

from fusedface.kernels.interface.normalisation import min_norm, unit_rows
from fusedface.kernels.interface.primitive import CosineLse, NegativeStats, Spec, compute_dtype
from fusedface.kernels.margins import Reweighting


def cosine_lse(
    embeddings: Tensor, weight: Tensor, labels: Tensor, threshold: Tensor, spec: Spec
) -> CosineLse:
    """See `Primitive`. O(B C) memory; the backends are tested against this."""
    dtype = compute_dtype(embeddings, weight)
    x, w = (unit_rows(rows.to(dtype), min_norm(rows.dtype)) for rows in (embeddings, weight))
    known = labels >= 0
    rows = torch.arange(len(x), device=x.device)
    columns = labels.clamp_min(0)

    cos_y = (x * w[columns]).sum(dim=1)
    cos = _product(x, w, spec.precision)
    is_target = torch.zeros_like(cos, dtype=torch.bool)
    is_target[rows, columns] = known

    hard = (cos > threshold[:, None]) & ~is_target
    negative = torch.where(hard, spec.hard.value(cos), cos)
    lse = torch.logsumexp((spec.scale * negative).masked_fill(is_target, -torch.inf), dim=1)
    return CosineLse(cos_y, lse, _stats(cos.detach(), is_target, hard, spec.hard))


def cosines(embeddings: Tensor, weight: Tensor) -> Tensor:
    """All cosines (B, C) of embeddings (B, D) and class centres (C, D), in float32 or float64."""
    dtype = compute_dtype(embeddings, weight)
    x, w = (unit_rows(rows.to(dtype), min_norm(rows.dtype)) for rows in (embeddings, weight))
    return x @ w.T


def _stats(cos: Tensor, is_target: Tensor, hard: Tensor, reweighting: Reweighting) -> NegativeStats:
    slope = reweighting.slope(cos) * torch.ones_like(cos)
    return NegativeStats(
        max_cosine=cos.masked_fill(is_target, -torch.inf).amax(dim=1),
        num_hard=hard.sum(dim=1).to(cos.dtype),
        slope_min=slope.masked_fill(~hard, torch.inf).amin(dim=1),
        slope_max=slope.masked_fill(~hard, -torch.inf).amax(dim=1),
        slope_sum=(slope * hard).sum(dim=1),
    )


def _product(x: Tensor, w: Tensor, precision: str) -> Tensor:
    """x w^T as torch computes it in `precision`, rounding operands and result ("tf32" as float32)."""
    if precision in ("float32", "tf32"):
        return x @ w.T
    half = getattr(torch, precision)
    return (x.to(half) @ w.to(half).T).to(x.dtype)
