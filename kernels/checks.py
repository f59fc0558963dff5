"""Checks of what a caller hands in: every error names the argument, the rule and the value."""

from typing import Literal

import torch
from torch import Tensor

from fusedface.kernels.margins import Margin
from fusedface.kernels.primitive import PRECISIONS

Backend = Literal["auto", "reference", "chunked", "triton"]
Precision = Literal["auto", "float32", "tf32", "bfloat16", "float16"]
Reduction = Literal["mean", "sum", "none"]
TargetGradient = Literal["exact", "straight_through"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


class NonFiniteInputError(ValueError):
    """An input holds NaN or infinity; `argument` names it."""

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(message)
        self.argument = argument


def check_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def check_options(
    margin: Margin,
    backend: str,
    precision: str,
    focal_gamma: float,
    reduction: str,
    target_gradient: str,
) -> None:
    """Raise TypeError or ValueError for an option of the head that makes no sense."""
    if not isinstance(margin, Margin):
        raise TypeError(f"margin must be a Margin such as CurricularFace(m=0.5), got {margin!r}")
    check_one_of("backend", backend, ("auto", "reference", "chunked", "triton"))
    check_one_of("precision", precision, ("auto", *PRECISIONS))
    check_one_of("reduction", reduction, ("mean", "sum", "none"))
    check_one_of("target_gradient", target_gradient, ("exact", "straight_through"))
    if not 0.0 <= focal_gamma < float("inf"):
        raise ValueError(f"focal_gamma must be finite and at least 0, got {focal_gamma!r}")


def check_tensors(embeddings: Tensor, weight: Tensor, labels: Tensor) -> None:
    """Raise TypeError or ValueError unless (B, D), (C, D) and (B,) agree in shape, dtype and device."""
    for name, rows, meaning in (("embeddings", embeddings, "B, D"), ("weight", weight, "C, D")):
        if rows.dtype not in FLOATS:
            raise TypeError(f"{name} must be a floating-point tensor, got {rows.dtype}")
        if rows.dim() != 2:
            raise ValueError(f"{name} must have shape ({meaning}), got {tuple(rows.shape)}")
    if labels.dtype not in INTEGERS:
        raise TypeError(
            f"labels must be a tensor of integers such as torch.int64, got {labels.dtype}"
        )
    num_rows, dim = embeddings.shape
    if num_rows == 0 or dim == 0:
        raise ValueError(f"embeddings must not be empty, got shape {tuple(embeddings.shape)}")
    if weight.shape[1] != dim:
        raise ValueError(
            f"weight must be (C, {dim}) to match embeddings {tuple(embeddings.shape)}, "
            f"got {tuple(weight.shape)}"
        )
    if len(weight) < 2:
        raise ValueError(f"weight must hold at least 2 classes, got {len(weight)}")
    if labels.shape != (num_rows,):
        raise ValueError(f"labels must have shape ({num_rows},), got {tuple(labels.shape)}")
    if not embeddings.device == weight.device == labels.device:
        raise ValueError(
            "embeddings, weight and labels must be on one device, got "
            f"{embeddings.device}, {weight.device} and {labels.device}"
        )


def check_values(embeddings: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """Raise ValueError for a label out of range and NonFiniteInputError for NaN or infinite embeddings.

    On a GPU reading the answer would stall the queue: there a wrong label trips a device-side assertion
    (raised at the next synchronisation, like that of torch's own cross-entropy), and an embedding
    that is not finite shows as a NaN in its row of `per_sample_loss`.
    """
    fits = ((labels >= 0) & (labels < num_classes)) | (labels == ignore_index)
    if embeddings.device.type != "cpu":
        # The only check that does not wait for the device; without a message torch.compile drops it.
        torch.ops.aten._assert_async.msg(fits.all(), "labels are out of range")
        return
    if not fits.all():
        row = int((~fits).nonzero()[0])
        raise ValueError(
            f"labels must be in [0, {num_classes}) or ignore_index={ignore_index}, "
            f"got labels[{row}] = {int(labels[row])}"
        )
    _check_finite("embeddings", embeddings)


def check_lse(lse: Tensor, weight: Tensor) -> None:
    """Raise NonFiniteInputError for a class centre that made the log-sum-exp not finite (CPU only)."""
    if lse.device.type == "cpu" and not lse.isfinite().all():
        _check_finite("weight", weight)


def _check_finite(name: str, rows: Tensor) -> None:
    bad = ~rows.detach().isfinite().all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        message = f"{name} must be finite, but row {row} of {len(rows)} holds NaN or infinity"
        raise NonFiniteInputError(name, f"{message} ({int(bad.sum())} such rows in all)")
