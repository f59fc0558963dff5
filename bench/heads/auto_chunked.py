"""Losses that Inductor's auto-chunker (torch 2.13) compiles: it divides the product's rows into chunks.

By its defaults it cuts a product only if the result is more than 8 times as large as its operands. That
is about B / D, and so never for a batch of faces. Here the ratio may be any. The chunker knows the
derivatives of few operators: no comparison but `eq`, no `index`, no `scatter` of a tensor. So the margin is
applied to the target cosines of a (B, D) product, and enters the logits by a multiplication with 0 and 1.
CurricularFace, whose hard negatives are a comparison, has no such form that it takes.

The auto-chunker of torch 2.11 leaves this form whole, too.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedface.bench.heads.loss import Loss, M, S

OPTIONS: dict[str, Any] = {
    "auto_chunker.enable": True,
    "auto_chunker.amplify_ratio_threshold": 0,
}


class NotChunkedError(RuntimeError):
    """The chunker left the loss whole, so that a time would be that of something else."""


def missing_in_torch() -> str:
    """Why the auto-chunker cannot run here; empty if it can."""
    major, minor = map(int, torch.__version__.split(".")[:2])
    if (major, minor) >= (2, 13):
        return ""
    return f"the auto-chunker of torch {torch.__version__} does not cut this loss (2.13's does)"


def arcface(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """ArcFace in the operators that the chunker knows."""
    x, w = F.normalize(embeddings), F.normalize(weight)
    target = (x * w[labels]).sum(1, keepdim=True)
    lowered = target * math.cos(M) - (1 - target * target).clamp_min(1e-12).sqrt() * math.sin(M)
    final = torch.where(target > -math.cos(M), lowered, target - M * math.sin(M))
    cos = F.linear(x, w).float()
    is_target = (labels[:, None] == torch.arange(len(w), device=w.device)).float()
    return F.cross_entropy((cos + is_target * (final - cos)) * S, labels)


def auto_chunked(loss: Loss) -> Loss:
    """The loss under torch.compile with the auto-chunker.

    Its first call raises NotChunkedError if the chunker did not divide it.
    """
    compiled: Callable[..., Tensor] = torch.compile(loss, dynamic=False, options=OPTIONS)
    seen = False

    def run(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        nonlocal seen
        if seen:
            return compiled(embeddings, weight, labels)
        from torch._inductor import metrics

        before = metrics.num_auto_chunking
        # With code from a cache the chunker does not run, and cannot be counted.
        with torch.compiler.config.patch(force_disable_caches=True):  # pyright: ignore[reportAttributeAccessIssue]
            value = compiled(embeddings, weight, labels)
        if metrics.num_auto_chunking == before:
            raise NotChunkedError("the auto-chunker left it whole, not timed")
        seen = True
        return value

    return run
