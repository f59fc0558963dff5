"""What a margin is: how the target cosine is lowered, and how hard negatives are re-weighted.

    loss_i = log( e^(s T(c_y)) + sum_{j != y} e^(s N(c_j)) ) - s T(c_y)          docs/losses.md (1)
    N(c) = c                                     where c <= threshold(c_y)      an easy negative
    N(c) = square c^2 + linear c + constant      where c >  threshold(c_y)      a hard negative

c_j is the cosine between an embedding and class centre j, c_y the one of its own class (the target
cosine), s the scale. Every published re-weighting of hard negatives is such a quadratic, so a margin
hands three numbers to the kernels and no code: a new margin touches no kernel.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

State = dict[str, Tensor]

# Past it the rounding of a float32 cosine is a tenth of a logit; below its inverse all logits are 0.
MAX_SCALE = 1e6


class HardMap(NamedTuple):
    """N of a hard negative, `square c^2 + linear c + constant`, with square >= 0.

    `linear` may be a 0-d tensor that stays on the device. With square >= 0 a larger cosine is never
    modulated less, so the extremes of the slope are those of the cosine.
    """

    square: float = 0.0
    linear: float | Tensor = 1.0
    constant: float = 0.0

    def value(self, cos: Tensor) -> Tensor:
        """N(cos), of any shape."""
        return (self.square * cos + self.linear) * cos + self.constant

    def slope(self, cos: Tensor) -> Tensor:
        """The modulation dN/dcos, of any shape."""
        return 2.0 * self.square * cos + self.linear


@dataclass(frozen=True, kw_only=True)
class Margin:
    """Base of all margins: the identity (no margin, no re-weighting).

    Args:
        s: the scale of the logits, 1e-6 <= s <= 1e6.

    Raises:
        TypeError: a parameter is no number, or no bool where one is asked for.
        ValueError: a parameter is out of its range.
    """

    s: float = 64.0

    name: ClassVar[str]
    reweights: ClassVar[bool] = False  # whether `hard_map` differs from the identity

    def __post_init__(self) -> None:
        for field in fields(self):
            require_type(
                field.name, getattr(self, field.name), bool if field.type is bool else Real
            )
        require("s", self.s, 1.0 / MAX_SCALE <= self.s <= MAX_SCALE, "a scale, 1e-6 <= s <= 1e6")

    def initial_state(self) -> dict[str, float]:
        """Numbers that training carries from batch to batch, by name, with their first value."""
        return {}

    def update_state(self, state: State, cos_y: Tensor, norms: Tensor, valid: Tensor) -> None:
        """Fold one batch into `state`, in place; called before the state is used, in training only.

        Args:
            state: 0-d tensors by the names of `initial_state`.
            cos_y: target cosines (B,), without margin.
            norms: lengths of the embeddings (B,).
            valid: bool (B,), False where the label is ignored.
        """

    def target(self, cos_y: Tensor, norms: Tensor, state: State) -> Tensor:
        """T: the target cosine after the margin, (B,) -> (B,), differentiable in `cos_y`."""
        raise NotImplementedError

    def threshold(self, cos_y: Tensor, norms: Tensor, state: State) -> Tensor:
        """The cosine (B,) above which a negative is hard; T unless the paper says otherwise."""
        return self.target(cos_y, norms, state)

    def hard_map(self, state: State) -> HardMap:
        """N of a hard negative; the identity for margins that do not re-weight."""
        return HardMap()

    def collapse_loss(
        self, num_classes: int, cosine: float = 0.0, state: Mapping[str, float] | None = None
    ) -> float:
        """The loss of a network that has collapsed: every cosine is the same, so none tells people apart.

        At cosine 0: s sin m + ln C for ArcFace, s (t - 1) more for MV-Arc-Softmax (docs/losses.md (9)).

        Args:
            num_classes: C.
            cosine: that all embeddings have with all class centres.
            state: of the margin, by the names of `initial_state`; None: as it starts. Embeddings are
                taken as of length 1.
        """
        cos = torch.full((1,), cosine, dtype=torch.float64)
        numbers = self.initial_state() | dict(state or {})
        tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items()}
        norms = torch.ones(1, dtype=torch.float64)
        hard = cos > self.threshold(cos, norms, tensors)
        negative = torch.where(hard, self.hard_map(tensors).value(cos), cos)
        gap = self.s * (negative - self.target(cos, norms, tensors)) + math.log(num_classes - 1)
        return torch.logaddexp(gap, torch.zeros_like(gap)).item()


def require_type(name: str, value: object, kind: type) -> None:
    """Raise TypeError naming the parameter and the value unless it is of `kind`; a bool is no number."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = {bool: "True or False", int: "an integer"}.get(kind, "a number")
        raise TypeError(f"{name} must be {wanted}, got {value!r}")


def require(name: str, value: float, holds: bool, rule: str) -> None:
    """Raise ValueError naming the parameter, the rule and the value unless `holds`."""
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value!r}")


def batch_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of `values` (B,) over the valid rows, 0-d; 0 where none is valid."""
    return (values * valid).sum() / valid.sum().clamp_min(1)


def fold_in(average: Tensor, value: Tensor, momentum: float, valid: Tensor) -> None:
    """average <- momentum value + (1 - momentum) average, in place, on the device.

    A batch without valid rows or with a value that is not finite leaves the average as it was: one
    bad batch must not poison every later one.
    """
    usable = valid.any() & value.isfinite()
    step = torch.where(usable, momentum * (value - average), torch.zeros_like(average))
    average.add_(step)
