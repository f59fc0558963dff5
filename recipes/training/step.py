"""One training step: forward, backward, clip, update; and what it was, if it was not finite."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fusedface.kernels import NonFiniteInputError
from fusedface.models import Backbone, MarginHead
from fusedface.recipes.training.checkpoint import Checkpoint
from fusedface.recipes.training.diagnose import first_non_finite
from fusedface.recipes.training.meter import Meter
from fusedface.recipes.training.precision import Precision


class NonFiniteTrainingError(RuntimeError):
    """Loss or gradient became NaN or infinite; the message names step and tensor."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class Learner:
    """A backbone, its head and their optimiser: all that a step changes.

    Args:
        model: the backbone, on the device.
        head: the class centres, on the device.
        optimizer: over the parameters of both.
        lr: the learning rate of each step, counted from 0.
        clip_norm: largest norm of the backbone's gradient; 0 is off.
        precision: device and dtype.
        channels_last: the memory order of the images.

    Attributes:
        meter: what was measured since the last line of metrics.
    """

    def __init__(
        self,
        model: Backbone,
        head: MarginHead,
        optimizer: torch.optim.Optimizer,
        *,
        lr: Callable[[int], float],
        clip_norm: float,
        precision: Precision,
        channels_last: bool,
    ) -> None:
        self.model, self.head, self.optimizer, self.lr = model, head, optimizer, lr
        self.limit = clip_norm or math.inf
        self.precision, self.channels_last = precision, channels_last
        self.scaler = precision.grad_scaler()
        self.meter = Meter(head.num_classes, tuple(head.state))
        # Of the newest step, to find out what was not finite in it.
        self._step, self._inputs = 0, torch.empty(0)

    def learn(self, step: int, images: Tensor, labels: Tensor) -> None:
        """One step, counted from 0, on images (B, H, W, 3) uint8 and labels (B,).

        Raises:
            NonFiniteTrainingError: on a CPU at this step, on other devices by the next `check_finite`.
        """
        device = self.precision.device
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(step)
        inputs = self.model.preprocessing.images_to_tensor(images.to(device, non_blocking=True))
        if not self.channels_last:
            inputs = inputs.contiguous()
        self._step, self._inputs = step, inputs
        try:
            with self.precision.autocast():
                out = self.head(self.model(inputs), labels.to(device, non_blocking=True))
        except NonFiniteInputError as error:
            raise self._non_finite(steps_ago=0) from error
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(out.loss).backward()
        self.scaler.unscale_(self.optimizer)
        # Not the class centres: their gradient grows as they are short, and says nothing of the loss.
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.limit)
        assert self.head.weight.grad is not None
        self.meter.add(out, norm, self.head.weight.grad.norm())
        if device.type == "cpu":  # reading the loss is free here, so the weights stay good
            self.check_finite()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def check_finite(self) -> None:
        """Raise NonFiniteTrainingError if a step since the last line of metrics was not finite."""
        steps_ago = self.meter.first_non_finite(self.scaler.is_enabled())
        if steps_ago is not None:
            raise self._non_finite(steps_ago)

    def _non_finite(self, steps_ago: int) -> NonFiniteTrainingError:
        """The error for a step before the newest, or for that one."""
        step = self._step - steps_ago
        what = first_non_finite(self.model, self.head, self._inputs)
        if steps_ago > 0:
            what += f" ({steps_ago} steps later, when it was read)"
        return NonFiniteTrainingError(
            step + 1,
            f"not finite at step {step + 1} (learning rate {self.lr(step):.3g}), first {what}. The last "
            "good checkpoint is kept; a longer warm-up, a lower optim.lr or optim.clip_norm may help",
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it, the rows of the meter apart."""
        return {
            "backbone": self.model.config,
            "preprocessing": self.model.preprocessing.as_dict(),
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, checkpoint: Checkpoint, meter: Tensor, *, has_begun: bool) -> None:
        """Go on from a checkpoint; nothing is changed unless all of it fits.

        Args:
            checkpoint: that was saved with `state`.
            meter: the rows of the meter, (n, figures).
            has_begun: whether a step has been made, so that there is momentum.

        Raises:
            ValueError: it is of another network or head, or an entry is damaged.
        """
        model = checkpoint.tensors("model", self.model.state_dict())
        head = checkpoint.tensors("head", self.head.state_dict())
        needed = has_begun and not self.scaler.is_enabled()
        momentum = checkpoint.momentum(self.optimizer, may_be_empty=not needed)
        scaler = checkpoint.scaler(self.scaler)
        self.model.load_state_dict(model)
        self.head.load_state_dict(head)
        self.optimizer.load_state_dict(momentum)
        if scaler is not None:
            self.scaler.load_state_dict(scaler)
        self.meter.restore(meter, self.precision.device)
