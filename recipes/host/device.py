"""Chooses the device to run on. Imports only torch, so that benchmarks load fast."""

import torch


def pick_device(name: str | torch.device | None) -> torch.device:
    """The device called `name`; without a name a GPU if there is one, else the CPU.

    Raises:
        ValueError: torch knows no such device, or this machine has none.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        (torch.ones(1, device=device) + 1).item()  # some devices that torch names cannot compute
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"device {str(name)!r} cannot be used here: {reason}") from None
    return device
