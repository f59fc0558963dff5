"""Alternatives to write or copy instead of the fused head, each as it is published.

Every function here is a `Loss` of embeddings and class centres that are not normalised, or makes one from
the state of its margin. We wrote the code of published formulations ourselves (docs/losses.md). Cosines are
float32, also under autocast.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedface.bench.heads.loss import Loss, M, S
from fusedface.kernels import Margin, margin_loss
from fusedface.kernels.options import Precision


def fused(margin: Margin, precision: Precision, t: Tensor, **options: Any) -> Loss:
    """Our `margin_loss` with the "auto" backend; `options` are those of `HeadOptions`."""
    state = dict.fromkeys(margin.initial_state(), t)
    options["precision"] = precision

    def loss(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        return margin_loss(embeddings, weight, labels, margin, state=state, **options).loss

    return loss


def official_curricularface(t: Tensor) -> Loss:
    """CurricularFace as in the official repository: boolean indexing, a copy of the cosines, raw norms."""

    def loss(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        x = embeddings / embeddings.norm(2, 1, keepdim=True)
        kernel = weight.T
        w = kernel / kernel.norm(2, 0, keepdim=True)
        cos = torch.mm(x, w).clamp(-1, 1)
        with torch.no_grad():
            _ = cos.clone()  # the head returns the unmodified cosines too
        target = cos[torch.arange(len(x), device=x.device), labels].view(-1, 1)
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


def eager_curricularface(t: Tensor) -> Loss:
    """The fastest eager form that we know: torch.where, sines of B numbers, in place if autograd allows."""

    def loss(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        cos = _cosines(embeddings, weight)
        lowered, final = _lowered_target(cos, labels)
        z = torch.where(cos > lowered.detach(), cos * (t + cos), cos)
        return F.cross_entropy(z.scatter_(1, labels[:, None], final).mul_(S), labels)

    return loss


def eager_arcface(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """ArcFace with sines of B numbers only, in place after the product."""
    cos = _cosines(embeddings, weight)
    _, final = _lowered_target(cos, labels)
    return F.cross_entropy(cos.scatter_(1, labels[:, None], final).mul_(S), labels)


def eager_normface(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Softmax without a margin: the logits are the cosines times the scale."""
    return F.cross_entropy(_cosines(embeddings, weight).mul_(S), labels)


def partial_fc_arcface(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """insightface's Partial FC at sample rate 1; margin by in-place arccosines, outside of autograd.

    The gradient is straight-through: dT/dc_y = 1.
    """
    cos = _cosines(embeddings, weight).clamp(-1, 1)
    rows = torch.arange(len(labels), device=labels.device)
    with torch.no_grad():
        cos.arccos_()
        cos[rows, labels] += M
        cos.cos_()
    return _InPlaceCrossEntropy.apply(cos * S, labels)


class _InPlaceCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy whose probabilities overwrite the logits (B, C)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits.sub_(logits.amax(dim=1, keepdim=True)).exp_()
        logits.div_(logits.sum(dim=1, keepdim=True))
        ctx.save_for_backward(logits, labels)
        # The original clamps at 1e-30, so that a loss is at most 69.1; this does not change the speed.
        tiny = torch.finfo(logits.dtype).tiny
        return -logits.gather(1, labels[:, None]).clamp_min(tiny).log().mean()

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        probabilities, labels = ctx.saved_tensors
        one_hot = torch.zeros_like(probabilities).scatter_(1, labels[:, None], 1.0)
        return probabilities.sub_(one_hot).div_(len(labels)) * d_loss, None


def in_autocast(loss: Loss, dtype: torch.dtype) -> Loss:
    """The loss with its matrix product in `dtype`."""

    def wrapped(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(embeddings.device.type, dtype=dtype):
            return loss(embeddings, weight, labels)

    return wrapped


def _cosines(embeddings: Tensor, weight: Tensor) -> Tensor:
    """Cosines (B, C), float32."""
    return F.linear(F.normalize(embeddings), F.normalize(weight)).float()


def _lowered_target(cos: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """cos(theta_y + m) (B, 1), and the same with the published fallback past theta_y = pi - m."""
    # Not gather: its backward needs all cosines, which then could not be overwritten.
    target = cos[torch.arange(len(labels), device=labels.device), labels][:, None]
    lowered = target * math.cos(M) - (1 - target * target).clamp_min(1e-12).sqrt() * math.sin(M)
    return lowered, torch.where(target > -math.cos(M), lowered, target - M * math.sin(M))
