"""Alternatives to install instead of the fused head: losses of other packages, and of torch itself.

The fused linear cross-entropies have no margin. With unit embeddings times s and unit class centres they
compute NormFace. They are compared because they compute the same matrix products.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fusedface.bench.heads.loss import Loss, M, S
from fusedface.recipes.run_directory.environment import installed_version

PADDED = 256  # classes: both kernels with TMA want a multiple of 128 or 256
LinearCrossEntropy = Callable[[Tensor, Tensor, Tensor], Any]


def missing(package: str, needs_cuda: bool, device: torch.device) -> str:
    """Why a package cannot run here; empty if it can."""
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    return "needs a CUDA device" if needs_cuda and device.type != "cuda" else ""


def missing_quack(device: torch.device) -> str:
    """Why QuACK cannot run here; empty if it can. Another package has the same import name."""
    if installed_version("quack-kernels") is None:
        return "quack-kernels is not installed"
    return _needs_capability(9, device)


def missing_liger_hopper(device: torch.device) -> str:
    """Why Liger-Kernel's kernel for Hopper cannot run here; empty if it can."""
    if reason := missing("liger_kernel", True, device):
        return reason
    if importlib.util.find_spec("cutlass") is None:
        return "nvidia-cutlass-dsl is not installed: pip install 'liger-kernel[cutedsl]'"
    return _needs_capability(9, device, only=True)


def _needs_capability(major: int, device: torch.device, *, only: bool = False) -> str:
    found = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 0
    if found == major or (found > major and not only):
        return ""
    return f"needs a GPU of compute capability {major}{'' if only else ' or later'}"


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
    return _normface(partial(F.linear_cross_entropy, options=options), dtype)  # pyright: ignore[reportAttributeAccessIssue]


def liger_normface(dtype: torch.dtype) -> Loss:
    """Liger-Kernel's fused linear cross-entropy, which chunks the batch."""
    module = importlib.import_module("liger_kernel.transformers.functional")
    return _normface(module.liger_fused_linear_cross_entropy, dtype)


def cut_cross_entropy_normface(dtype: torch.dtype) -> Loss:
    """Apple's cut-cross-entropy with its defaults, which drop small gradients."""
    module = importlib.import_module("cut_cross_entropy")
    return _normface(module.linear_cross_entropy, dtype)


def liger_hopper_normface(dtype: torch.dtype) -> Loss:
    """Liger-Kernel's CuTe kernel for sm_90, which takes bfloat16 only."""
    module = importlib.import_module("liger_kernel.ops.cutedsl.ops.fused_linear_cross_entropy_sm90")
    return _normface(padded(module.liger_fused_linear_cross_entropy_sm90), dtype)


def quack_normface(dtype: torch.dtype) -> Loss:
    """QuACK's chunked linear cross-entropy, its products without tuning."""
    module = importlib.import_module("quack.linear_cross_entropy")
    return _normface(padded(partial(module.chunked_linear_cross_entropy, tuned=False)), dtype)


def padded(function: LinearCrossEntropy) -> LinearCrossEntropy:
    """The function on class centres with zero rows up to a multiple of PADDED.

    Logits of these rows are 0, far below those of the hard negatives; the check against float64 decides.
    """

    def wrapped(x: Tensor, w: Tensor, labels: Tensor) -> Any:
        return function(x, F.pad(w, (0, 0, 0, -len(w) % PADDED)), labels)

    return wrapped


def _normface(function: LinearCrossEntropy, dtype: torch.dtype) -> Loss:
    """NormFace from a linear cross-entropy, with both operands in `dtype`."""

    def loss(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        x = (F.normalize(embeddings) * S).to(dtype)
        return function(x, F.normalize(weight).to(dtype), labels)

    return loss
