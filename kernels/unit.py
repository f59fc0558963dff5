"""Unit rows and the gradient through them."""

from torch import Tensor

# A shorter vector has no direction that float32 could tell: it becomes zero, with gradient zero.
MIN_NORM = 1e-12


def inverse_norms(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths (N,) of `rows` (N, D) and their inverses (N,), 0 for rows without direction."""
    norms = rows.norm(dim=1)
    return norms, norms.clamp_min(MIN_NORM).reciprocal() * (norms > MIN_NORM)


def unit_rows(rows: Tensor) -> Tensor:
    """`rows` (N, D) over their lengths, differentiable; zero, with gradient zero, below MIN_NORM."""
    usable = rows.detach().norm(dim=1, keepdim=True) > MIN_NORM
    safe = rows.where(usable, rows.new_ones(()))  # norm() has no gradient at 0
    return (safe / safe.norm(dim=1, keepdim=True)) * usable


def project(d_unit: Tensor, unit: Tensor) -> Tensor:
    """Gradient in the rows, but for their inverse lengths: (I - u u^T) d; (N, D), in place."""
    along = (d_unit * unit).sum(dim=1, keepdim=True)
    return d_unit.addcmul_(unit, along, value=-1.0)
