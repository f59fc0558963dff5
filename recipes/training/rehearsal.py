"""Two ways to compute the same step, tried on one batch: the state before it, and how far they differ."""

from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST_DIFFERENCE = {torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.5}
"""Largest distance between two gradients, or changes of the weights, of one step, as a share of their
length, by the dtype of the backbone's products. Rounding to bfloat16 moves the gradient of MobileFaceNet's
first step by .27 (docs/training.md). A gradient of zeros gives 1, one of another batch about 1.4."""


class Before:
    """Tensors and random generators as they are now.

    Args:
        tensors: what the step changes.
        device: where it is computed.
    """

    def __init__(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        self._tensors = list(tensors)
        self._values = [tensor.detach().clone() for tensor in tensors]
        self._device = device
        self._generators = generator_states(device)

    @torch.no_grad()
    def restore(self) -> None:
        """Make them so again, in place."""
        for tensor, value in zip(self._tensors, self._values, strict=True):
            tensor.copy_(value)
        set_generators(self._generators, self._device)

    def changes(self, now: Sequence[Tensor]) -> list[Tensor]:
        """What has been added to the floating-point tensors since."""
        pairs = zip(now, self._values, strict=True)
        return [new.detach() - old for new, old in pairs if old.is_floating_point()]


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """|ours - theirs| / |theirs|, of all tensors together; infinity if it is not a number."""
    apart = sum((a.double() - b.double()).square().sum() for a, b in zip(ours, theirs, strict=True))
    whole = sum(b.double().square().sum() for b in theirs)
    ratio = float(torch.as_tensor(apart / whole).sqrt()) if whole > 0 else float(apart > 0)
    return ratio if ratio == ratio else float("inf")


def generator_states(device: torch.device) -> list[Tensor]:
    """The states of the generators of the CPU and of a device; reading them does not wait for it."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def set_generators(states: list[Tensor], device: torch.device) -> None:
    """The inverse of `generator_states`."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
