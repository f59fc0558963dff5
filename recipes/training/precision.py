"""The precision of the backbone, and the gradient scaler that float16 needs."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from fusedface.kernels.products import bfloat16_is_fast

BFLOAT16_COMPUTE_CAPABILITY = (8, 0)  # Ampere: older GPUs only emulate bfloat16


@dataclass(frozen=True)
class Precision:
    """A device and the dtype of the backbone's products on it; weights are always float32."""

    device: torch.device
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """Name of the dtype, such as "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    def autocast(self) -> AbstractContextManager[object]:
        """The context of the forward pass."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @property
    def is_emulated(self) -> bool:
        """Whether this CPU has no instructions for the dtype."""
        in_half = self.dtype != torch.float32
        return self.device.type == "cpu" and in_half and not bfloat16_is_fast()

    def grad_scaler(self) -> torch.amp.GradScaler:
        """A scaler against vanishing float16 gradients; it is disabled for other dtypes."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)


def pick_precision(name: str, device: torch.device) -> Precision:
    """Resolve `train.precision` for a device.

    "auto" is bfloat16 if the hardware multiplies it (GPUs from Ampere on, CPUs with AVX512-BF16 or AMX),
    float16 on older GPUs, and float32 elsewhere, because emulated bfloat16 is slower than float32.

    Raises:
        ValueError: float16 is asked for, and the device is not a GPU.
    """
    if name == "auto":
        return Precision(device, _fastest(device))
    if name == "float16" and device.type != "cuda":
        raise ValueError(
            f"train.precision must not be float16 on {device.type}, only on CUDA devices; "
            "use bfloat16 or float32"
        )
    return Precision(device, getattr(torch, name))


def _fastest(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.get_device_capability(device) >= BFLOAT16_COMPUTE_CAPABILITY
        return torch.bfloat16 if has_bfloat16 else torch.float16
    if device.type == "cpu" and bfloat16_is_fast():
        return torch.bfloat16
    return torch.float32
