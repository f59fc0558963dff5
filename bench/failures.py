"""How a head of a benchmark can fail, and what its row then says."""

from typing import NamedTuple

import torch

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
