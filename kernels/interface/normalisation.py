"""Unit rows and the gradient through them.

A row whose squared length overflows float32 (length above 1.8e19) becomes NaN, like a row that holds NaN.
With an inverse length of 0 it would look like a row without direction.
"""

import torch
from torch import Tensor

# A shorter vector has no direction that float32 could tell: it becomes zero, with gradient zero.
MIN_NORM = 1e-12
# The same for float16, whose numbers below this are multiples of 6e-8: a direction of one digit, and a
# gradient, which goes with one over the length, past float16's largest number.
MIN_NORM_FLOAT16 = 2.0**-14


def min_norm(dtype: torch.dtype) -> float:
    """The length up to which a row given in `dtype` has no direction."""
    return MIN_NORM_FLOAT16 if dtype == torch.float16 else MIN_NORM


def inverse_norms(rows: Tensor, shortest: float) -> tuple[Tensor, Tensor]:
    """Lengths (N,) of `rows` (N, D), and inverses (N,): 0 up to `shortest`, NaN if the square overflows."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    inverse = norms.clamp_min(shortest).reciprocal() * (norms > shortest)
    return norms, inverse.masked_fill_(norms == torch.inf, torch.nan)


def unit_rows(rows: Tensor, shortest: float) -> Tensor:
    """`rows` (N, D) over their lengths, differentiable; zero, with gradient zero, up to `shortest`."""
    too_short = rows.detach().norm(dim=1, keepdim=True) <= shortest  # NaN is not
    safe = rows.masked_fill(too_short, 1.0)  # norm() has no gradient at 0
    norms = safe.norm(dim=1, keepdim=True)
    return (safe / norms.masked_fill(norms == torch.inf, torch.nan)) * ~too_short


def project(d_unit: Tensor, unit: Tensor) -> Tensor:
    """Gradient in the rows without their inverse lengths: (I - u u^T) d; (N, D), in place."""
    along = (d_unit * unit).sum(dim=1, keepdim=True)
    return d_unit.addcmul_(unit, along, value=-1.0)
