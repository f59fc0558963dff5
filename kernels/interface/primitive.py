"""The one thing that has to be fused: target cosines and the log-sum-exp over the negatives.

    lse_i = log sum_{j != y_i} exp(s N(c_ij))      c_ij = <x_i, w_j> / (|x_i| |w_j|)      docs/losses.md (2)

Everything else of a margin loss is ordinary autograd on B numbers (plain_loss.py). Each backend has
a function of the signature of `Primitive`, and may have its own `target_cosine`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fusedface.kernels.interface.negatives import NegativeStats, Reweighting
from fusedface.kernels.interface.normalisation import inverse_norms, min_norm
from fusedface.kernels.interface.update import CentreUpdate
from fusedface.kernels.interface.whole import Call, Whole


@dataclass(frozen=True)
class Spec:
    """The settings of the primitive: the scale, N of a hard negative, operand precision."""

    scale: float
    hard: Reweighting
    precision: str = "float32"
    update: CentreUpdate | None = None
    """A step that the backward makes on the class centres, which then get no gradient; only for the
    backends of `dispatch.WITH_UPDATE`."""


class CosineLse(NamedTuple):
    """The result of a backend: cos_y (B,) and lse (B,), both differentiable, and the statistics."""

    cos_y: Tensor
    lse: Tensor
    stats: NegativeStats


class Primitive(Protocol):
    """embeddings (B, D), weight (C, D), labels (B,) with -1 for none, threshold (B,), spec -> CosineLse."""

    def __call__(
        self, embeddings: Tensor, weight: Tensor, labels: Tensor, threshold: Tensor, spec: Spec
    ) -> CosineLse:
        """Compute in float32, or in float64 where an operand has it."""
        ...


class TargetCosine(Protocol):
    """embeddings (B, D), weight (C, D), labels (B,) with -1 for none -> see `target_cosine`."""

    def __call__(self, embeddings: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Without gradient: margins take their thresholds and state from it, before the log-sum-exp."""
        ...


Keys = Callable[[Tensor, int, int], Tensor]
"""(seed, n, first) -> `random_bits` of n numbers from `first` on, without the sign; (n,) int64."""


class Backend(NamedTuple):
    """The functions that a margin loss needs from a backend."""

    cosine_lse: Primitive
    target_cosine: TargetCosine
    whole: Whole | None = None
    """All of the loss at once, for margins with a form."""
    whole_serves: Callable[[Tensor, Tensor, Call], bool] = lambda *args: True  # noqa: ARG005
    """Whether `whole` takes these embeddings and class centres, and computes this call."""
    whole_checks: bool = False
    """Whether `whole` raises the errors of `checks.check_values` and `checks.check_centres` itself."""
    keys: Keys | None = None
    """In one kernel, where the backend has one."""


def target_cosine(embeddings: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Target cosines (B,) and lengths of the embeddings (B,); any cosine where the label is -1."""
    dtype = compute_dtype(embeddings, weight)
    x, w = embeddings.to(dtype), weight.index_select(0, labels.clamp_min(0)).to(dtype)
    norms, inverse_x = inverse_norms(x, min_norm(embeddings.dtype))
    _, inverse_w = inverse_norms(w, min_norm(weight.dtype))
    return (x * w).sum(dim=1) * inverse_x * inverse_w, norms


def compute_dtype(embeddings: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype of everything but the matrix products' operands."""
    return torch.promote_types(torch.promote_types(embeddings.dtype, weight.dtype), torch.float32)
