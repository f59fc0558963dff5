"""The operands of a pass over all class centres, and the sums of the forward."""

from typing import NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.products import Products


class Hard(NamedTuple):
    """A Reweighting whose numbers are all known on the host."""

    square: float
    linear: float
    constant: float


IDENTITY = Hard(0.0, 1.0, 0.0)


class Operands(NamedTuple):
    """B samples, C class centres, D dimensions; logits in base 2, y = base2 c."""

    x: Tensor  # (B, D) unit embeddings
    x_base2: Tensor  # the same times base2
    weight: Tensor  # (C, D) class centres, not normalised
    labels: Tensor  # (B,), -1 for none
    threshold: Tensor  # (B,), in base 2
    hard: Hard
    base2: float
    products: Products
    chunk_size: int  # classes

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of all that is computed."""
        return self.x.dtype

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """(K, D) of the class centres of a full chunk."""
        return self.chunk_size, self.x.shape[1]

    @property
    def num_cosines(self) -> int:
        """B K of a full chunk."""
        return len(self.x) * self.chunk_size

    @property
    def excess(self) -> tuple[float, float, float]:
        """(a, l, k) of a hard negative: N(y) - y = (a y + l) y + k in base 2."""
        square, linear, constant = self.hard
        return square / self.base2, linear - 1.0, constant * self.base2


class Totals(NamedTuple):
    """Sums of the forward over all negatives: (B,) each, and (B, D)."""

    largest: Tensor  # z
    total: Tensor  # sum of 2^(z - largest)
    max_y: Tensor
    num_hard: Tensor
    least: Tensor  # of N' - 1 over the hard; unknown where N is linear
    lift_sum: Tensor  # of N' - 1 over the hard; unknown where N is linear
    direction: Tensor | None  # sum of 2^(z - largest) N' w, if it was asked for
