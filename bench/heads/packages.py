"""Alternatives to install instead of the fused head: losses of other packages, and of torch itself.

The fused linear cross-entropies have no margin. With unit embeddings times s and unit class centres they
compute NormFace. They are compared because they compute the same matrix products.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedface.bench.heads.loss import Loss, M, S

LinearCrossEntropy = Callable[[Tensor, Tensor, Tensor], Any]


def missing(package: str, needs_cuda: bool, device: torch.device) -> str:
    """Why a package cannot run here; empty if it can."""
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    return "needs a CUDA device" if needs_cuda and device.type != "cuda" else ""


def missing_in_torch() -> str:
    """Why torch's own linear_cross_entropy cannot run here; empty if it can."""
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        return ""
    return f"torch {torch.__version__} has no linear_cross_entropy (2.13 has)"


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
        module.W = weight.T  # (D, C) in that package; a view, so that the gradient reaches `weight`
        return module(embeddings, labels)

    return loss


def torch_normface(dtype: torch.dtype) -> Loss:
    """torch's linear_cross_entropy, on its chunked path with default options."""
    options = torch.nn.LinearCrossEntropyOptions()  # pyright: ignore[reportAttributeAccessIssue]

    def function(x: Tensor, w: Tensor, labels: Tensor) -> Tensor:
        return F.linear_cross_entropy(x, w, labels, options=options)  # pyright: ignore[reportAttributeAccessIssue]

    return _normface(function, dtype)


def liger_normface(dtype: torch.dtype) -> Loss:
    """Liger-Kernel's fused linear cross-entropy, which chunks the batch."""
    module = importlib.import_module("liger_kernel.transformers.functional")
    return _normface(module.liger_fused_linear_cross_entropy, dtype)


def cut_cross_entropy_normface(dtype: torch.dtype) -> Loss:
    """Apple's cut-cross-entropy with its defaults, which drop small gradients."""
    module = importlib.import_module("cut_cross_entropy")
    return _normface(module.linear_cross_entropy, dtype)


def _normface(function: LinearCrossEntropy, dtype: torch.dtype) -> Loss:
    """NormFace from a linear cross-entropy, with both operands in `dtype`."""

    def loss(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        x = (F.normalize(embeddings) * S).to(dtype)
        return function(x, F.normalize(weight).to(dtype), labels)

    return loss
