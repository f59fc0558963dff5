"""An exponential average of a backbone's weights."""

from copy import deepcopy

import torch

from fusedface.models import Backbone


class WeightAverage:
    """average <- d average + (1 - d) weights after every step, d = min(decay, (1 + n) / (10 + n)).

    n is the number of steps. It makes d small early in a run, so that the average forgets the initial
    weights (as in TensorFlow's ExponentialMovingAverage). Running statistics of batch normalisation are
    averaged too; integers are copied.

    Args:
        model: the backbone with its initial weights.
        decay: the largest d, in (0, 1).
    """

    def __init__(self, model: Backbone, decay: float) -> None:
        self.decay = decay
        self.model = deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Backbone, step: int) -> None:
        """Update the average with the weights after step number `step` (from 1)."""
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        ours, theirs = self.model.state_dict(), model.state_dict()
        smooth = [name for name, average in ours.items() if average.is_floating_point()]
        whole = [name for name in ours if name not in set(smooth)]
        # A few launches on a GPU, not one for each tensor.
        average, new = ([state[n] for n in smooth] for state in (ours, theirs))
        torch._foreach_lerp_(average, new, weight)  # pyright: ignore[reportPrivateImportUsage]
        if whole:
            average, new = ([state[n] for n in whole] for state in (ours, theirs))
            torch._foreach_copy_(average, new)  # pyright: ignore[reportPrivateImportUsage]
