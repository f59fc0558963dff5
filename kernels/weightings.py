"""Weights of samples by their own loss, without gradient: which samples count, and how much.

Focal weighting is an option of its own (`HeadOptions.focal_gamma`): its weight is differentiated.
To add one: a class like its neighbours and one row in WEIGHTINGS.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fusedface.kernels.interface.whole import WeightingForm, Weights
from fusedface.kernels.margins.base import State
from fusedface.kernels.margins.records import check_types, require


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """Base of all weightings, and the identity: every sample has weight 1, without state."""

    name: ClassVar[str]

    def initial_state(self) -> dict[str, float]:
        """Numbers that training carries from batch to batch, by name, with their first value."""
        return {}

    def update_state(self, losses: Tensor, valid: Tensor, state: State) -> None:
        """Fold a batch's losses (B,) into `state`, in place; before its weights, in training only."""

    def weights(self, losses: Tensor, state: State) -> Tensor:
        """The weight of each sample by its loss, (B,) -> (B,)."""
        return torch.ones_like(losses)

    def form(self) -> WeightingForm | None:
        """The same in numbers, if kernels know the kind; not inherited."""
        return None


@dataclass(frozen=True, kw_only=True)
class SelfPaced(Weighting):
    """Samples whose loss lies below a growing bound (Kumar, Packer, Koller, NIPS 2010, eq. 4 to 6).

    The paper minimises sum_i v_i loss_i - (1/K) sum_i v_i over v_i in {0, 1}, so v_i = 1 where
    loss_i < 1/K, and divides K by a factor again and again. Here the bound is 1/K; it starts at a quantile
    of the first batch's losses (the paper asks for a K that lets in half of the samples) and grows with
    every batch.

    Args:
        first_share: share of the first batch that lies below the bound, in (0, 1).
        growth: what the bound is multiplied by from batch to batch, at least 1.
    """

    first_share: float = 0.5
    growth: float = 1.01

    name: ClassVar[str] = "self_paced"

    def __post_init__(self) -> None:
        check_types(self)
        require("first_share", self.first_share, 0.0 < self.first_share < 1.0, "in (0, 1)")
        require("growth", self.growth, 1.0 <= self.growth < math.inf, "a factor, at least 1")

    def initial_state(self) -> dict[str, float]:
        """The bound; 0 until there was a batch."""
        return {"loss_bound": 0.0}

    def update_state(self, losses: Tensor, valid: Tensor, state: State) -> None:
        """Set the bound by the first batch, and raise it by each that follows."""
        bound = state["loss_bound"]
        usable = losses.where(valid & losses.isfinite(), torch.nan)
        first = usable.nanquantile(self.first_share).nan_to_num(0.0)
        grown = (bound * self.growth).clamp_max(torch.finfo(bound.dtype).max)
        bound.copy_(torch.where(bound > 0, grown, first))

    def weights(self, losses: Tensor, state: State) -> Tensor:
        """1 below the bound, else 0."""
        return (losses < self._bound(losses, state)).to(losses.dtype)

    def form(self) -> WeightingForm:
        """See `Weighting.form`."""
        return WeightingForm(Weights.BELOW, self.first_share, self.growth)

    def _bound(self, losses: Tensor, state: State) -> Tensor:
        """The bound; none before there was a batch, as in evaluating a new head."""
        bound = state["loss_bound"].to(losses.dtype)
        return bound.where(bound > 0, torch.inf)


@dataclass(frozen=True, kw_only=True)
class SelfPacedLinear(SelfPaced):
    """The same with v_i = 1 - loss_i / bound below the bound (Jiang et al., "Easy Samples First", 2014)."""

    name: ClassVar[str] = "self_paced_linear"

    def weights(self, losses: Tensor, state: State) -> Tensor:
        """1 for a loss of 0, falling to 0 at the bound."""
        return (1.0 - losses / self._bound(losses, state)).clamp_min(0.0)

    def form(self) -> WeightingForm:
        """See `Weighting.form`."""
        return WeightingForm(Weights.LINEAR_BELOW, self.first_share, self.growth)


EQUAL = WeightingForm(Weights.EQUAL, 0.5, 1.0)


def weighting_form(weighting: Weighting | None) -> WeightingForm | None:
    """The form that the weighting's own class defines, if it does; that of equal weights for None."""
    if weighting is None:
        return EQUAL
    return weighting.form() if "form" in vars(type(weighting)) else None


WEIGHTINGS: dict[str, type[Weighting]] = {w.name: w for w in (SelfPaced, SelfPacedLinear)}
