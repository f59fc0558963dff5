"""Figures of every step: accumulated on the device, read once per line of metrics."""

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from fusedface.kernels import MarginOutput

FIGURES = (
    "loss",
    "grad_norm",
    "grad_norm_head",
    "loss_easy",
    "loss_hard",
    "target_cosine",
    "target_cosine_p05",
    "target_cosine_p95",
    "max_negative_cosine",
    "max_negative_cosine_max",
    "accuracy",
    "hard_share",
    "modulation_min",
    "modulation_mean",
    "modulation_max",
)
"""Figures of every loss. The state of the margin, such as t, and the figures of a teacher follow."""


class Meter:
    """Statistics of the steps since the last line of metrics.

    accuracy: share of the training images whose own class has the largest cosine. hard_share: share of the
    B (C - 1) negatives that are hard. grad_norm: norm of the backbone's gradient before clipping.
    grad_norm_head: norm of the class centres' gradient. loss_easy: mean loss of the samples without a hard
    negative. loss_hard: mean loss of the others. _p05 and _p95: quantiles over the batch.

    Args:
        num_classes: C, or the number of sampled classes per batch.
        state_names: names of the head's state and of a teacher's figures.
    """

    def __init__(self, num_classes: int, state_names: tuple[str, ...] = ()) -> None:
        self.num_classes, self.state_names = num_classes, state_names
        self.names = FIGURES + state_names
        self.rows: list[Tensor] = []

    def row(
        self,
        out: MarginOutput,
        grad_norm: Tensor,
        grad_norm_head: Tensor,
        more: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The figures of one step, without waiting for the device; `more` has those of `state_names`."""
        others = {**out.state, **(more or {})}
        nan = out.loss.new_full((), math.nan)
        is_hard = out.hard_negatives > 0
        losses = out.per_sample_loss.detach()
        values = (
            out.loss.detach(),
            grad_norm,
            grad_norm_head,
            losses.where(~is_hard, nan).nanmean(),
            losses.where(is_hard, nan).nanmean(),
            out.target_cosine.nanmean(),
            *out.target_cosine.float().nanquantile(_quantiles(out.target_cosine.device)),
            out.max_negative_cosine.mean(),
            out.max_negative_cosine.amax(),
            out.correct.float().mean(),
            out.hard_negatives.float().mean() / (self.num_classes - 1),
            *out.modulation,
            *(others.get(name, nan) for name in self.state_names),
        )
        return torch.stack([value.detach().float() for value in values])

    def add(self, row: Tensor) -> None:
        """Add one step."""
        self.rows.append(row)

    def first_non_finite(self, scaled: bool) -> int | None:
        """Age in steps of the first step that was not finite, 0 for the newest; None if all were finite.

        A gradient scaler makes infinite gradients normal, so they do not count if `scaled`.
        """
        if not self.rows:
            return None
        watched = torch.stack(self.rows)[:, : 1 if scaled else 2]
        bad = (~watched.isfinite().all(dim=1)).nonzero()
        return len(self.rows) - 1 - int(bad[0]) if len(bad) else None

    def take(self) -> dict[str, float]:
        """The mean of each figure over the steps that have it; then reset."""
        means = torch.stack(self.rows).nanmean(dim=0).tolist()
        self.rows.clear()
        return {
            name: mean for name, mean in zip(self.names, means, strict=True) if math.isfinite(mean)
        }

    def state(self) -> Tensor:
        """The rows for a checkpoint, so that a resumed run writes the same next line."""
        return torch.stack(self.rows).cpu() if self.rows else torch.empty(0, len(self.names))

    def restore(self, state: Tensor, device: torch.device) -> None:
        """The inverse of `state`; rows of an older version, which logged only t, lack the other states."""
        if state.shape[1] != len(self.names):
            states = state.new_full((len(state), len(self.names) - len(FIGURES)), math.nan)
            state = torch.cat([state[:, : len(FIGURES)], states], dim=1)
        self.rows = list(state.to(device))


@lru_cache
def _quantiles(device: torch.device) -> Tensor:
    """Made once, because making a tensor from numbers copies from the host and makes a GPU wait."""
    return torch.tensor([0.05, 0.95], dtype=torch.float32, device=device)
