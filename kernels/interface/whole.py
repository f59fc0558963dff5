"""A whole margin loss, for backends whose kernels also do the work on the B numbers of a batch."""

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple, Protocol

from torch import Tensor


class Weights(IntEnum):
    """Kinds of weights of samples by their own loss that kernels know (gpu/weighting.py)."""

    EQUAL = 0
    BELOW = 1  # 1 below a bound, else 0
    LINEAR_BELOW = 2  # from 1 for a loss of 0 to 0 at the bound


class WeightingForm(NamedTuple):
    """A weighting in numbers: see `weightings.SelfPaced`."""

    kind: Weights
    first_share: float
    growth: float


class Call(NamedTuple):
    """The arguments that are not tensors: T and the average as in `margins.form.Form`, options, N."""

    target: int
    n0: float
    n1: float
    n2: float
    n3: float
    n4: float
    average: int
    momentum: float
    linear: float
    state_is_linear: bool  # whether N takes its linear coefficient from the state
    gamma: float
    exact: bool  # whether T is differentiated, or T' = 1
    training: bool  # whether the state takes the batch in
    ignore_index: int
    mean: bool  # whether the reduced loss is the mean, or the sum
    scale: float
    square: float
    constant: float
    precision: str
    reweights: bool
    linear_bound: float
    keep: bool = False  # whether a forward keeps exponentials for its backward
    weighting: int = Weights.EQUAL.value  # with the next two as in `WeightingForm`
    first_share: float = 0.5
    growth: float = 1.0
    lse_shift: float = 0.0  # added to the log-sum-exp: over all negatives, from that over a sample


class WholeLoss(NamedTuple):
    """The result; the first two are differentiable. Float32 by default."""

    loss: Tensor  # 0-d, the sum or the mean
    per_sample: Tensor  # (B,)
    target_cosine: Tensor  # (B,), NaN where the label is ignored
    fits: Tensor  # 0-d bool: every label is a class or ignored
    rest: "Callable[[], Rest]"  # computed when it is called


class Rest(NamedTuple):
    """What the loss does not need; without gradient, float32 by default."""

    max_cosine: Tensor  # (B,), of the negatives
    correct: Tensor  # (B,) bool
    num_hard: Tensor  # (B,) int64
    modulation: tuple[Tensor, ...]  # smallest, mean and largest, 0-d
    state: tuple[Tensor, ...]  # what was used, 0-d


class Whole(Protocol):
    """embeddings (B, D), weight (C, D), labels (B,) as given, the margin's tensors, the rest."""

    def __call__(
        self,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        state: list[Tensor],
        class_margins: Tensor | None,
        call: Call,
    ) -> WholeLoss:
        """Compute in float32; in training the state, 0-d float32 tensors, is updated in place.

        The state is the margin's, then the weighting's.
        `class_margins` are m_j, at least (C,), of a margin that differs between classes.
        """
        ...
