"""Arguments of the kernels of both passes: operands, N as numbers, unit rows."""

import os
from typing import NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.gpu import layout, tile
from fusedface.kernels.gpu.tile import FULL, LINEAR, PLAIN, QUADRATIC

LOG2_E = tile.LOG2_E.value
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # read once, as Triton itself does


def check_operands(embeddings: Tensor, weight: Tensor) -> None:
    """Raise TypeError or ValueError for operands that these kernels do not take."""
    if embeddings.is_cpu and not INTERPRETED:
        raise ValueError(
            "backend='triton' needs tensors on a CUDA device, got embeddings on cpu: "
            "use backend='chunked', or 'auto'"
        )
    if torch.float64 in (embeddings.dtype, weight.dtype):
        name = "embeddings" if embeddings.dtype == torch.float64 else "weight"
        raise TypeError(
            f"{name} is float64, but backend='triton' computes in float32: "
            "use backend='chunked', or float32 inputs"
        )


class Numbers(NamedTuple):
    """The scalars of a `Spec`; its `linear` is a tensor, of which the host knows only a bound."""

    scale: float
    square: float
    constant: float
    precision: str
    reweights: bool
    linear_bound: float = 1.0

    @property
    def mode(self) -> int:
        """Which branch of N the kernels hold."""
        if not self.reweights:
            return PLAIN.value
        if not self.square:
            return LINEAR.value
        return FULL.value if self.constant else QUADRATIC.value

    @property
    def scalars(self) -> tuple[float, float, float, float]:
        """In order: log2(e) s, square of log2(e) s N, 2 square of N, constant of log2(e) s N."""
        scale = self.scale * LOG2_E
        return scale, scale * self.square, 2.0 * self.square, scale * self.constant

    def reference(self, num_classes: int) -> layout.Reference:
        """The reference that exponentials are taken relative to."""
        bound = max(1.0, self.square + self.linear_bound + abs(self.constant))
        bound = bound if self.reweights else 1.0
        return layout.reference(self.scale * LOG2_E, bound, num_classes)


class UnitRows(NamedTuple):
    """Unit rows in the operand dtype and inverse lengths, padded with zeros to whole tiles."""

    rows: Tensor
    inverse: Tensor
