"""How a head of a benchmark can fail, and what its row then says."""

from typing import NamedTuple

import torch

DEVICE_LOST = 3
"""Exit status of a benchmark whose process has lost the GPU: another process can go on."""

# Errors that an alternative may raise: its own, a compiler's of many kinds, a missing import.
FAILURES = (Exception,)


class Errors(NamedTuple):
    """Relative errors of the mean loss, and of each gradient by its norm."""

    loss: float
    embeddings: float
    weight: float


class WrongResultError(ValueError):
    """A head does not compute the loss that it claims; `errors` has the differences."""

    def __init__(self, message: str, errors: Errors) -> None:
        super().__init__(message)
        self.errors = errors


class DeviceLostError(RuntimeError):
    """After an illegal access of memory every later call of this process fails.

    `head` made it; it is empty if none had run.
    """

    def __init__(self, head: str, why: str) -> None:
        super().__init__(f"{head}: {why}")
        self.head, self.why = head, why


def is_lost(device: torch.device) -> bool:
    """Whether a GPU refuses all further work of this process."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def failure(error: BaseException) -> str:
    """One line on why a head did not run."""
    text = str(error).strip()
    is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text
    if is_memory:
        return "out of memory"
    if isinstance(error, WrongResultError):
        return text
    first = text.splitlines()[0] if text else type(error).__name__
    return f"failed: {first[:100]}"
