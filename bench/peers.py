"""What a user would run instead of the fused head, each written in the way it is published.

Every provider computes the mean loss of a batch from raw embeddings and class centres and
back-propagates it. Formulations of others are our own writing of what they publish (docs/losses.md).
"""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedface.kernels import ArcFace, CurricularFace, Margin, margin_loss

M, S = 0.5, 64.0
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Provider:
    """One way to compute the loss.

    `margin` says which loss it is, so that its result can be held against the reference; `make`
    returns a function of (embeddings (B, D), weight (C, D), labels (B,)) to the mean loss.
    """

    name: str
    margin: Margin
    make: Callable[[], Loss]
    needs: str = ""  # a package, if any

    @property
    def tolerance(self) -> float:
        """Largest error of the mean loss, relative; a logit of 64 has a spacing of 0.25 in bfloat16."""
        return 1e-2 if "bfloat16" in self.name else 1e-4


def official_curricularface(t: float) -> Loss:
    """As the official repository computes it: boolean indexing, a second copy of the cosines, raw norms."""

    def loss(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        x = embeddings / embeddings.norm(2, 1, keepdim=True)
        kernel = weight.T
        w = kernel / kernel.norm(2, 0, keepdim=True)
        cos = torch.mm(x, w).clamp(-1, 1)
        with torch.no_grad():
            _ = cos.clone()  # the head returns the unmodified cosines too
        target = cos[torch.arange(len(x)), labels].view(-1, 1)
        sin = torch.sqrt(1.0 - torch.pow(target, 2))
        lowered = target * math.cos(M) - sin * math.sin(M)
        mask = cos > lowered
        final = torch.where(
            target > math.cos(math.pi - M), lowered, target - math.sin(math.pi - M) * M
        )
        hard = cos[mask]
        cos[mask] = hard * (t + hard)
        cos.scatter_(1, labels.view(-1, 1).long(), final)
        return F.cross_entropy(cos * S, labels)

    return loss


def eager_curricularface(t: float) -> Loss:
    """The best eager form we know: torch.where, a sine of B numbers only."""

    def loss(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        cos = F.linear(F.normalize(embeddings), F.normalize(weight))
        target = cos.gather(1, labels[:, None])
        lowered = target * math.cos(M) - (1 - target * target).clamp_min(1e-12).sqrt() * math.sin(M)
        final = torch.where(target > -math.cos(M), lowered, target - M * math.sin(M))
        z = torch.where(cos > lowered.detach(), cos * (t + cos), cos)
        return F.cross_entropy(z.scatter(1, labels[:, None], final) * S, labels)

    return loss


def eager_arcface() -> Loss:
    """ArcFace with torch.where and a sine of B numbers only."""

    def loss(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        cos = F.linear(F.normalize(embeddings), F.normalize(weight))
        target = cos.gather(1, labels[:, None])
        lowered = target * math.cos(M) - (1 - target * target).clamp_min(1e-12).sqrt() * math.sin(M)
        final = torch.where(target > -math.cos(M), lowered, target - M * math.sin(M))
        return F.cross_entropy(cos.scatter(1, labels[:, None], final) * S, labels)

    return loss


def metric_learning_arcface() -> Loss:
    """pytorch-metric-learning's ArcFaceLoss on the given class centres; its margin is in degrees."""
    losses = importlib.import_module("pytorch_metric_learning.losses")
    made: dict[tuple[int, int], Any] = {}

    def loss(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        num_classes, dim = weight.shape
        if (num_classes, dim) not in made:
            made[num_classes, dim] = losses.ArcFaceLoss(num_classes, dim, math.degrees(M), S)
            del made[num_classes, dim]._parameters["W"]
        module = made[num_classes, dim]
        module.W = weight.T  # (D, C) there; a view, so the gradient reaches `weight`
        return module(embeddings, labels)

    return loss


def fused(margin: Margin, precision: str, t: float = 0.0) -> Loss:
    """Our head's function, "auto" backend."""

    def loss(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        state = (
            {"t": torch.tensor(t, device=weight.device)} if "t" in margin.initial_state() else None
        )
        return margin_loss(
            embeddings, weight, labels, margin, state=state, precision=precision  # pyright: ignore[reportArgumentType]
        ).loss  # fmt: skip

    return loss


def providers(t: float) -> list[Provider]:
    """All of them; `t` is the value of CurricularFace's t that every provider uses."""
    curricular, arc = CurricularFace(m=M, s=S), ArcFace(m=M, s=S)

    def compiled() -> Loss:
        torch.compiler.reset()
        return torch.compile(eager_curricularface(t), dynamic=False)

    pml = "pytorch_metric_learning"
    return [
        Provider("fused curricularface float32", curricular, lambda: fused(curricular, "float32", t)),
        Provider("fused curricularface bfloat16", curricular, lambda: fused(curricular, "bfloat16", t)),
        Provider("official curricularface", curricular, lambda: official_curricularface(t)),
        Provider("eager curricularface", curricular, lambda: eager_curricularface(t)),
        Provider("compiled eager curricularface", curricular, compiled),
        Provider("fused arcface float32", arc, lambda: fused(arc, "float32")),
        Provider("fused arcface bfloat16", arc, lambda: fused(arc, "bfloat16")),
        Provider("eager arcface", arc, eager_arcface),
        Provider("pytorch-metric-learning arcface", arc, metric_learning_arcface, needs=pml),
    ]  # fmt: skip


def installed(provider: Provider) -> bool:
    """Whether the package a provider needs is there."""
    return not provider.needs or importlib.util.find_spec(provider.needs) is not None
