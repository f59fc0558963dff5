"""Two ways to compute the same step, tried on one batch: the state before it, and how far they differ."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

LARGEST_DIFFERENCE = {torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.5}
"""Largest distance between two gradients, or changes of the weights, of one step, as a share of their
length, by the dtype of the backbone's products. Rounding to bfloat16 moves the gradient of MobileFaceNet's
first step by .27 (docs/training.md). A gradient of zeros gives 1, one of another batch about 1.4."""

SLICE = 2**22  # numbers that are compared at a time, in float64


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

    def difference(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
        """|ours - theirs| / |what has been added since|, of all floating-point tensors together."""
        return _ratio(zip(ours, theirs, self._values, strict=True))


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """|ours - theirs| / |theirs|, of all tensors together; infinity if it is not a number."""
    nothing = (tensor.new_zeros(()).expand(tensor.numel()) for tensor in theirs)
    return _ratio(zip(ours, theirs, nothing, strict=True))


def _ratio(triples: Iterable[tuple[Tensor, Tensor, Tensor]]) -> float:
    """|a - b| / |b - c| of all triples (a, b, c) together, slice by slice: class centres may be large."""
    apart: float | Tensor = 0.0
    whole: float | Tensor = 0.0
    for triple in triples:
        if not triple[0].is_floating_point():
            continue
        flat = (tensor.detach().reshape(-1).split(SLICE) for tensor in triple)
        for slices in zip(*flat, strict=True):
            a, b, c = (each.double() for each in slices)
            apart = apart + (a - b).square().sum()
            whole = whole + (b - c).square().sum()
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
