"""Which implementation runs, and in which precision."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from fusedface.kernels import chunked, reference
from fusedface.kernels.primitive import Backend, Primitive, compute_dtype, target_cosine

BACKENDS = {
    "reference": Backend(reference.cosine_lse, target_cosine),
    # torch.compiler.disable has wrapped it
    "chunked": Backend(cast(Primitive, chunked.cosine_lse), target_cosine),
}

# Triton is there on Linux alone; a machine without it has the other backends.
try:
    from fusedface.kernels.gpu import ops
except ImportError as error:
    WITHOUT_TRITON = str(error)
else:
    WITHOUT_TRITON = ""
    BACKENDS["triton"] = Backend(ops.cosine_lse, ops.target_cosine)


class Choice(NamedTuple):
    """A backend's name, and why "auto" takes it."""

    backend: str
    reason: str


def choose(device: torch.device, dtype: torch.dtype) -> Choice:
    """What "auto" takes for operands on `device` that are computed in `dtype`."""
    if device.type != "cuda":
        return Choice("chunked", "there are no fused kernels for this device")
    if WITHOUT_TRITON:
        return Choice("chunked", f"Triton cannot be imported: {WITHOUT_TRITON}")
    if dtype == torch.float64:
        return Choice("chunked", "the Triton kernels compute in float32")
    return Choice("triton", "fused kernels for CUDA devices")


def pick_backend(name: str, embeddings: Tensor, weight: Tensor) -> Backend:
    """The backend called `name`; for "auto" see `choose`.

    Raises:
        ValueError: the backend is not available here. A backend that was asked for is never replaced.
    """
    if name == "auto":
        name = choose(embeddings.device, compute_dtype(embeddings, weight)).backend
    if name not in BACKENDS:
        available = f"use one of auto, {', '.join(BACKENDS)}"
        if name == "triton":
            raise ValueError(
                f"backend='triton' needs Triton ({WITHOUT_TRITON}): install it, or {available}"
            )
        raise ValueError(f"backend={name!r} is not available in this version, {available}")
    return BACKENDS[name]


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve "auto": the dtype of an active autocast on `device`, else float32."""
    if name != "auto":
        return name
    if not torch.is_autocast_enabled(device.type):
        return "float32"
    return str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")
