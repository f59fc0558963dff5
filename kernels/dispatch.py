"""Which implementation runs, and in which precision."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.interface.primitive import compute_dtype

WITHOUT_COMPILER = ("reference", "chunked")  # the backends that are always there
WITH_UPDATE = ("chunked", "triton")  # those that update the class centres in their backward
_AVAILABLE = f"use one of auto, {', '.join(WITHOUT_COMPILER)}"


@cache
def without_triton() -> str:
    """Why the Triton kernels cannot run here; empty if they can. Triton exists only for Linux."""
    try:
        import triton  # noqa: F401  (a third of a second: only for those who ask)
    except ImportError as error:
        return str(error)
    return ""


class Choice(NamedTuple):
    """A backend's name, and why "auto" takes it."""

    backend: str
    reason: str


def choose(device: torch.device, dtype: torch.dtype) -> Choice:
    """The backend that "auto" takes for operands on `device` that are computed in `dtype`."""
    if device.type != "cuda":
        return Choice("chunked", "there are no fused kernels for this device")
    if reason := without_triton():
        return Choice("chunked", f"Triton cannot be imported: {reason}")
    if dtype == torch.float64:
        return Choice("chunked", "the Triton kernels compute in float32")
    return Choice("triton", "fused kernels for CUDA devices")


def pick_backend(name: str, embeddings: Tensor, weight: Tensor, updates: bool = False) -> str:
    """The name of the backend that runs; for "auto" see `choose`.

    Args:
        name: of a backend, or "auto".
        embeddings: (B, D).
        weight: (C, D).
        updates: whether the backward updates the class centres.

    Raises:
        ValueError: the backend is not available here. A backend that was asked for is never replaced.
    """
    if updates:
        check_updates(name)
    if name == "auto":
        device = embeddings.device
        # The dtype decides on CUDA devices only.
        dtype = compute_dtype(embeddings, weight) if device.type == "cuda" else torch.float32
        name = choose(device, dtype).backend
    if name in WITHOUT_COMPILER:
        return name
    if name != "triton":
        raise ValueError(f"backend={name!r} is not available in this version, {_AVAILABLE}, triton")
    if reason := without_triton():
        raise ValueError(f"backend='triton' needs Triton ({reason}): install it, or {_AVAILABLE}")
    return name


def check_updates(name: str) -> None:
    """Raise ValueError unless this backend, or "auto", can update the class centres in its backward."""
    if name not in ("auto", *WITH_UPDATE):
        listed = " or ".join(WITH_UPDATE)
        raise ValueError(
            f"backend={name!r} has no update of the class centres in its backward, use {listed}"
        )


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve "auto": the dtype of an active autocast on `device`, else float32."""
    if name != "auto":
        return name
    if not torch.is_autocast_enabled(device.type):
        return "float32"
    return str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")
