"""One benchmark case: sizes and how far training has come, and the inputs that follow from it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """B samples, C classes, D dimensions.

    `phase` "start": random embeddings, t = 0, every negative is hard. "late": embeddings near their
    class centre, t = 0.5, few negatives are hard. Formulations with boolean indexing take longer
    where more is hard; ours does the same work in both.
    """

    num_rows: int
    num_classes: int
    dim: int
    phase: str = "start"

    @property
    def t(self) -> float:
        """CurricularFace's t in this phase."""
        return 0.0 if self.phase == "start" else 0.5

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (B, D) and weight (C, D), float32, requiring gradients, and labels (B,)."""
        generator = torch.Generator().manual_seed(0)
        weight = 0.01 * torch.randn(self.num_classes, self.dim, generator=generator)
        labels = torch.randint(self.num_classes, (self.num_rows,), generator=generator)
        embeddings = torch.randn(self.num_rows, self.dim, generator=generator)
        if self.phase == "late":
            embeddings += 150.0 * weight[labels]  # target cosines near 0.83
        return (
            embeddings.to(device).requires_grad_(),
            weight.to(device).requires_grad_(),
            labels.to(device),
        )

    def __str__(self) -> str:
        return f"B={self.num_rows} C={self.num_classes:,} D={self.dim} {self.phase}"
