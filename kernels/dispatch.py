"""Which implementation runs, and in which precision."""

import torch
from torch import Tensor

from fusedface.kernels import chunked, reference
from fusedface.kernels.primitive import Primitive

BACKENDS: dict[str, Primitive] = {"reference": reference.cosine_lse, "chunked": chunked.cosine_lse}


def pick_backend(name: str, embeddings: Tensor) -> Primitive:  # noqa: ARG001
    """The backend called `name`; "auto" is the chunked one.

    Raises:
        ValueError: the backend is not available here. A backend that was asked for is never replaced.
    """
    if name == "auto":
        return BACKENDS["chunked"]
    if name not in BACKENDS:
        raise ValueError(
            f"backend={name!r} is not available in this version, use one of auto, {', '.join(BACKENDS)}"
        )
    return BACKENDS[name]


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve "auto": the dtype of an active autocast on `device`, else float32."""
    if name != "auto":
        return name
    if not torch.is_autocast_enabled(device.type):
        return "float32"
    return str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")
