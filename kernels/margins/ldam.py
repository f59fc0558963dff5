"""LDAM: a margin that is larger for classes of few images."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from fusedface.kernels.margins.base import Batch, Margin, State
from fusedface.kernels.margins.form import Form, Target
from fusedface.kernels.margins.records import require


@dataclass(frozen=True, kw_only=True)
class LDAM(Margin):
    """T(c) = c - m_y, m_j = max_m (n_min / n_j)^(1/4) (Cao et al., "LDAM", NeurIPS 2019, eq. 13).

    n_j is the number of training images of class j, n_min the least of them. The authors' code has s = 30.

    Args:
        max_m: the largest margin, that of the rarest class, on the cosine, 0 <= max_m < 2.
        s: scale.
        class_counts: n_j of every class, at least 1 each; a run takes them from its training images.
    """

    max_m: float = 0.5
    # Not hashed, as a step would take longer to hash them than to do its work.
    class_counts: tuple[int, ...] = field(default=(), repr=False, hash=False)

    name: ClassVar[str] = "ldam"
    # Each instance has its own. ClassVar keeps it out of the settings.
    _margins: ClassVar[dict[tuple[torch.device, torch.dtype], Tensor]]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            "max_m", self.max_m, 0.0 <= self.max_m < 2.0, "a difference of cosines, 0 <= max_m < 2"
        )
        least = min(self.class_counts, default=1)
        if least < 1:
            raise ValueError(f"class_counts must be at least 1 each, got {least}")
        # Not a cached_property, whose lock in Python 3.11 torch.compile cannot enter.
        object.__setattr__(self, "_margins", {})

    def with_class_counts(self, counts: tuple[int, ...]) -> "LDAM":
        """The margin for these classes; unchanged if it has its own."""
        return self if self.class_counts else replace(self, class_counts=counts)

    def example_labels(self, num_classes: int) -> Tensor:
        """Every class."""
        return torch.arange(num_classes)

    def target(self, batch: Batch, state: State) -> Tensor:
        """T(c), (B,)."""
        if not self.class_counts:
            raise ValueError(
                "class_counts of the margin ldam must say how many images each class has; "
                "margin.with_class_counts(counts) takes them"
            )
        if batch.labels.device.type == "cpu" and batch.labels.max() >= len(self.class_counts):
            raise ValueError(
                f"class_counts of the margin ldam are of {len(self.class_counts)} classes, "
                f"got label {int(batch.labels.max())}"
            )
        margins = self._margins_on(batch.cos_y.device, batch.cos_y.dtype)
        return batch.cos_y - margins[batch.labels.clamp_min(0)]

    def form(self) -> Form | None:
        """A shift of each class, once its counts are known."""
        return Form(Target.CLASS_SHIFT, ()) if self.class_counts else None

    def class_margins(self, device: torch.device) -> Tensor | None:
        """m_j, (C,) float32, once the counts are known."""
        return self._margins_on(device, torch.float32) if self.class_counts else None

    def _margins_on(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """m_j, (C,), rounded from float64; copied to a device once."""
        if (device, dtype) not in self._margins:
            counts = torch.tensor(self.class_counts, dtype=torch.float64)
            margins = self.max_m * (counts.min() / counts) ** 0.25
            self._margins[device, dtype] = margins.to(device, dtype)
        return self._margins[device, dtype]
