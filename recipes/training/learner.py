"""What a run trains, and one step of it: forward, backward, clip, update; the diagnosis if not finite."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusedface.data import FaceBatch
from fusedface.kernels import NonFiniteInputError, checks
from fusedface.kernels.sampling import num_kept
from fusedface.models import Backbone
from fusedface.models.sampled_rows import stored
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.average import WeightAverage
from fusedface.recipes.training.common import common_component
from fusedface.recipes.training.diagnose import NonFiniteTrainingError, non_finite_error
from fusedface.recipes.training.distillation import FIGURES as OF_LESSONS
from fusedface.recipes.training.distillation import Distiller
from fusedface.recipes.training.graphed import GraphedStep
from fusedface.recipes.training.meter import Meter
from fusedface.recipes.training.optim import prepare_graphs
from fusedface.recipes.training.precision import Precision
from fusedface.recipes.training.rates import rates_on_device, set_rate
from fusedface.recipes.training.recorder import Made, Recorder

if TYPE_CHECKING:
    from fusedface.models import MarginHead
    from fusedface.recipes.training.compiling import Compiling
    from fusedface.recipes.training.distillation import Lesson
    from fusedface.recipes.training.passes import Passes
    from fusedface.recipes.training.plan import Plan


class Learner:
    """A backbone, its head and their optimiser, which is everything that a step changes.

    Args:
        model: the backbone, on the device.
        head: the head with the class centres, on the device.
        optimizer: the optimiser of both.
        plan: the learning rate and the margin of each step, counted from 0; the last margin is that of
            `head`.
        freeze_statistics: whether batch normalisation keeps its running statistics.
        ema: decay of an average of the backbone's weights; 0 for none.
        clip_norm: largest norm of the backbone's gradient; 0 is off.
        precision: device and dtype.
        passes: forward and backward of a step.
        compiling: compiles the passes, where that pays.
        scaler: scales the loss.
        processes: the processes that share each step; each has its part of the images and class centres.
        distiller: a teacher and its method; None without a teacher.
        recorder: records steps, to replay them; None to make each by itself.
        note: called with a line for the user.

    Attributes:
        average: average of the backbone's weights; None without one.
        meter: figures since the last line of metrics.
    """

    def __init__(
        self,
        model: Backbone,
        head: "MarginHead",
        optimizer: torch.optim.Optimizer,
        *,
        plan: "Plan",
        freeze_statistics: bool,
        ema: float,
        clip_norm: float,
        precision: Precision,
        passes: "Passes",
        compiling: "Compiling",
        scaler: torch.amp.GradScaler,
        processes: Processes | None = None,
        distiller: Distiller | None = None,
        recorder: Recorder | None = None,
        note: Callable[[str], None] = print,
    ) -> None:
        self.model, self.head, self.optimizer, self.plan = model, head, optimizer, plan
        self.freeze_statistics, self.clip_norm = freeze_statistics, clip_norm or math.inf
        self.precision = precision
        self.processes = processes or Processes()
        self.distiller = distiller
        self.passes, self.compiling, self.scaler = passes, compiling, scaler
        if head.fused is not None:
            head.fused.scaler = self.scaler
        self.average = WeightAverage(model, ema) if ema else None
        # From the start, so that every checkpoint holds the state of all margins.
        for stage in plan.losses.stages:
            head.set_margin(stage.margin)
        num_met = num_kept(head.num_classes, head.options.sample_rate)
        others = tuple(name for name, _ in head.named_buffers())
        self.meter = Meter(num_met, others + (OF_LESSONS if distiller else ()))
        self._step, self._embeddings = 0, torch.empty(0)  # of the newest step
        self._graphed = None
        if recorder is not None:
            self._graphed = GraphedStep(
                self._whole_step, self.changed, recorder, precision.device, precision.dtype, note,
                prepare_graphs(optimizer),
            )  # fmt: skip

    @property
    def network(self) -> Backbone:
        """The network to verify and save: the average of the weights, if there is one."""
        return self.model if self.average is None else self.average.model

    def restart_average(self) -> None:
        """Restart the average with the current weights of the backbone."""
        if self.average is not None:
            self.average.model.load_state_dict(self.model.state_dict())

    def prepare(self, step: int) -> None:
        """Set training or evaluation mode for a step; frozen parts are in evaluation mode."""
        self.head.train()
        self.model.train(step >= self.plan.freeze)
        if self.freeze_statistics:
            for norm in _batch_norms(self.model):
                norm.eval()

    def learn(self, step: int, batch: FaceBatch) -> None:
        """One step, counted from 0, on a batch of the host; call `prepare` first.

        Raises:
            NonFiniteTrainingError: on a CPU at this step; on other devices only `check_finite` raises it.
        """
        self._step = step
        is_frozen = step < self.plan.freeze
        graphed = self._graphed if not is_frozen and self._graphed and self._graphed.is_on else None
        self._set_rate_and_margin(step, on_device=graphed is not None)
        try:
            if graphed is None:
                made = self._gradients(batch, is_frozen=is_frozen)
            else:
                made = graphed(batch, self.head.margin)
        except NonFiniteInputError as error:
            raise self._non_finite(steps_ago=0) from error
        self.meter.add(made.row)
        self._embeddings = made.embeddings
        if graphed is None:
            if checks.can_be_read(self.precision.device):  # it is free there: weights stay good
                self.check_finite()
            self._update()
        if self.average is not None:
            self.average.update(self.model, step + 1)

    def _set_rate_and_margin(self, step: int, *, on_device: bool) -> None:
        """Set the learning rate, the margin and the mode of a step, as planned."""
        rates_on_device(self.optimizer, on=on_device)
        set_rate(self.optimizer, self.plan.lr(step))
        if self.plan.losses(step).margin is not self.head.margin:
            self.head.set_margin(self.plan.losses(step).margin)
        if step == self.plan.freeze > 0:
            self.prepare(step)

    def _gradients(self, batch: FaceBatch, *, is_frozen: bool) -> Made:
        """Compute the gradients, shorten the backbone's, and tell the figures; no value is read.

        Args:
            batch: on the host, or on the device.
            is_frozen: whether only the class centres get gradients.

        Raises:
            NonFiniteInputError: on a CPU, if the head finds a number that is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        is_trial = not is_frozen and self.compiling.is_due()
        passed = (
            self.compiling.trial(batch) if is_trial else self.passes(batch, is_frozen=is_frozen)
        )
        self.scaler.unscale_(self.optimizer)
        # Not the class centres: the norm of their gradient depends on their length.
        norm = torch.zeros((), device=self.head.weight.device)
        if not is_frozen:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        head_norm = self.processes.norm(_gradient(self.head.weight))
        if self.head.fused is not None:  # already updated in the backward
            head_norm = torch.full_like(head_norm, math.nan)
        more = {} if passed.lesson is None else self._means(passed.lesson)
        return Made(self.meter.row(passed.out, norm, head_norm, more), passed.embeddings)

    def _update(self) -> None:
        """Let the optimiser make its step."""
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _whole_step(self, batch: FaceBatch) -> Made:
        """Gradients and update on a batch of the device, which a graph can record."""
        made = self._gradients(batch, is_frozen=False)
        self._update()
        return made

    def changed(self) -> Iterator[Tensor]:
        """The tensors that a step changes."""
        yield from self.model.state_dict().values()
        yield from self.head.state_dict().values()
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))

    def _means(self, lesson: "Lesson") -> dict[str, Tensor]:
        """Figures over the images of all processes, each with the same number of images."""
        return {
            name: self.processes.sum(value.clone()) / self.processes.count
            for name, value in lesson.figures().items()
        }

    def figures(self) -> dict[str, float]:
        """Figures since the last line of metrics, and the common components of the newest step."""
        common = common_component(self._embeddings, self.head.weight, self.processes)
        return self.meter.take() | common

    def check_finite(self) -> None:
        """Raise NonFiniteTrainingError if a step since the last line of metrics was not finite."""
        steps_ago = self.meter.first_non_finite(self.scaler.is_enabled())
        if steps_ago is not None:
            raise self._non_finite(steps_ago)

    def _non_finite(self, steps_ago: int) -> NonFiniteTrainingError:
        """The error for the step that is `steps_ago` before the newest."""
        step = self._step - steps_ago
        found = self.processes.gather(self.passes.first_non_finite())
        return non_finite_error(found, step, steps_ago, self.plan.lr(step))


def _batch_norms(model: nn.Module) -> Iterator[nn.Module]:
    """The layers that keep running statistics."""
    return (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))


def _gradient(parameter: Tensor) -> Tensor:
    """The stored values of a parameter's gradient; 0 if it has none."""
    return parameter.new_zeros(1) if parameter.grad is None else stored(parameter.grad)
