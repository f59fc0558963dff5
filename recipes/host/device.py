"""Which device to run on. Imports only torch, so that a benchmark needs no more."""

import torch


def pick_device(name: str | torch.device | None) -> torch.device:
    """The device called `name`; without a name a GPU if there is one, else the CPU.

    Raises:
        ValueError: torch knows no such device, or it is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        (torch.ones(1, device=device) + 1).item()  # not every device that torch names computes
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"device {str(name)!r} cannot be used here: {reason}") from None
    return device
