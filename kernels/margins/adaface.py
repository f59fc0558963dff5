"""AdaFace: a margin that follows the image quality, read off the length of the embedding."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fusedface.kernels.margins.angular import angle, require_angle
from fusedface.kernels.margins.base import Batch, Margin, State, batch_mean, fold_in
from fusedface.kernels.margins.form import EPS, MAX_NORM, MIN_NORM, Average, Form, Target
from fusedface.kernels.margins.records import require


@dataclass(frozen=True, kw_only=True)
class AdaFace(Margin):
    """T(c) = cos(theta + g_angle) - g_add (Kim et al., "AdaFace", CVPR 2022, eq. 7 to 9).

    q = clip(h (norm - mean) / std, -1, 1) is the quality of a sample among its peers,
    g_angle = -m q and g_add = m q + m. mean and std are exponential averages over the batches; no
    gradient flows through the lengths.

    Args:
        m: margin, radians in g_angle and cosine in g_add.
        s: scale.
        h: how much of the distribution of lengths spans the range of q.
        momentum: weight of the new batch in the averages (the paper's alpha = 0.99 is on the old one).
    """

    m: float = 0.4
    h: float = 0.333
    momentum: float = 0.01

    name: ClassVar[str] = "adaface"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_angle("m", self.m)
        require("h", self.h, 0.0 < self.h < math.inf, "positive and finite")
        require("momentum", self.momentum, 0.0 < self.momentum <= 1.0, "in (0, 1]")

    def initial_state(self) -> dict[str, float]:
        """Mean and standard deviation of the lengths, from the published implementation."""
        return {"norm_mean": 20.0, "norm_std": 100.0}

    def update_state(self, batch: Batch, state: State) -> None:
        """Fold the batch's mean and (unbiased) deviation of the lengths into the averages."""
        norms, valid = batch.norms.clamp(MIN_NORM, MAX_NORM), batch.valid
        mean = batch_mean(norms, valid)
        squares = ((norms - mean).square() * valid).sum()
        std = (squares / (valid.sum() - 1)).sqrt()  # not finite for one sample: left out by fold_in
        fold_in(state["norm_mean"], mean, self.momentum, valid)
        fold_in(state["norm_std"], std, self.momentum, valid)

    def target(self, batch: Batch, state: State) -> Tensor:
        """T(c), (B,) -> (B,)."""
        centred = batch.norms.detach().clamp(MIN_NORM, MAX_NORM) - state["norm_mean"]
        quality = (self.h * centred / (state["norm_std"] + EPS)).clamp(-1.0, 1.0)
        shifted = (angle(batch.cos_y) - self.m * quality).clamp(EPS, math.pi - EPS)
        return torch.cos(shifted) - (self.m * quality + self.m)

    def form(self) -> Form:
        """The margin by quality; the state averages lengths."""
        return Form(Target.QUALITY, (self.m, self.h), Average.LENGTHS, self.momentum)
