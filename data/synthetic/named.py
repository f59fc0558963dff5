"""Numbers of many photos by name, and functions of them that round the same for every photo of a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Named:
    """Columns by name, each (n, 1, 1, 1) float32: they broadcast over pictures."""

    values: Tensor
    """(n, K, 1, 1, 1)."""
    numbers: dict[str, int]
    """The column of each name."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.values[:, self.numbers[name]]
        except KeyError:
            raise AttributeError(name) from None

    def take(self, chosen: Tensor) -> "Named":
        """Some of the rows, by index (k,)."""
        return Named(self.values[chosen], self.numbers)

    def scaled(self, strengths: dict[str, float]) -> "Named":
        """Each column times its own number."""
        factors = torch.tensor([strengths[name] for name in self.numbers])
        factors = factors.to(self.values.device)
        return Named(self.values * factors[:, None, None, None], self.numbers)


def rotation(angle: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each rounded to float32 from float64.

    float32 functions differ in the last bit between vectorised and scalar code, and so with the place
    of an image in its batch. float64 functions rounded to float32 do not.
    """
    wide = angle.double()
    return wide.cos().float(), wide.sin().float()
