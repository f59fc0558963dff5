"""One step of training without reading a value: gradients, clipping, figures, update."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusedface.data import FaceBatch
from fusedface.models.sampled_rows import stored
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.graphed import Made
from fusedface.recipes.training.meter import Meter

if TYPE_CHECKING:
    from fusedface.models import Backbone, MarginHead
    from fusedface.recipes.training.compiling import Compiling
    from fusedface.recipes.training.distillation import Lesson


class OneStep:
    """Changes a backbone, its head and the state of their optimiser.

    Args:
        model: the backbone.
        head: the head with the class centres.
        optimizer: the optimiser of both.
        passes: computes the gradients.
        scaler: scales the loss.
        meter: knows which figures a step has.
        clip_norm: largest norm of the backbone's gradient; 0 is off.
        processes: the processes that share each step.
    """

    def __init__(
        self,
        model: "Backbone",
        head: "MarginHead",
        optimizer: torch.optim.Optimizer,
        passes: "Compiling",
        scaler: torch.amp.GradScaler,
        meter: Meter,
        clip_norm: float,
        processes: Processes,
    ) -> None:
        self._model, self._head, self._optimizer = model, head, optimizer
        self._passes, self._scaler, self._meter = passes, scaler, meter
        self._limit, self._processes = clip_norm or math.inf, processes

    def __call__(self, batch: FaceBatch) -> Made:
        """Make the step."""
        made = self.gradients(batch, is_frozen=False)
        self.update()
        return made

    def gradients(self, batch: FaceBatch, *, is_frozen: bool) -> Made:
        """Compute the gradients, shorten the backbone's, and tell the figures.

        Args:
            batch: on the host, or on the device.
            is_frozen: whether only the class centres get gradients.

        Raises:
            NonFiniteInputError: on a CPU, if the head finds a number that is not finite.
        """
        self._optimizer.zero_grad(set_to_none=True)
        out, lesson, embeddings = self._passes(batch, is_frozen=is_frozen)
        self._scaler.unscale_(self._optimizer)
        # Not the class centres: the norm of their gradient depends on their length.
        norm = torch.zeros((), device=self._head.weight.device)
        if not is_frozen:
            norm = nn.utils.clip_grad_norm_(self._model.parameters(), self._limit)
        head_norm = self._processes.norm(_gradient(self._head.weight))
        if self._head.fused is not None:  # already updated in the backward
            head_norm = torch.full_like(head_norm, math.nan)
        more = {} if lesson is None else self._figures(lesson)
        return Made(self._meter.row(out, norm, head_norm, more), embeddings)

    def update(self) -> None:
        """Let the optimiser make its step."""
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def changed(self) -> Iterator[Tensor]:
        """The tensors that a step changes."""
        yield from self._model.state_dict().values()
        yield from self._head.state_dict().values()
        for state in self._optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))

    def _figures(self, lesson: "Lesson") -> dict[str, Tensor]:
        """Means over the images of all processes, each with the same number of images."""
        return {
            name: self._processes.sum(value.clone()) / self._processes.count
            for name, value in lesson.figures().items()
        }


def _gradient(parameter: Tensor) -> Tensor:
    """The stored values of a parameter's gradient; 0 if it has none."""
    return parameter.new_zeros(1) if parameter.grad is None else stored(parameter.grad)
