"""One training step: forward, backward, clip, update; and the diagnosis if it is not finite."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fusedface.data import FaceBatch
from fusedface.kernels import NonFiniteInputError, checks
from fusedface.kernels.sampling import num_kept
from fusedface.models import Backbone
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.average import WeightAverage
from fusedface.recipes.training.checkpoint import DISTILLER, IN_TRAINING, Checkpoint
from fusedface.recipes.training.common import common_component
from fusedface.recipes.training.diagnose import THE_LOSS, NonFiniteTrainingError
from fusedface.recipes.training.distillation import FIGURES as OF_LESSONS
from fusedface.recipes.training.distillation import Distiller
from fusedface.recipes.training.graphed import GraphedStep, Recorder
from fusedface.recipes.training.meter import Meter
from fusedface.recipes.training.one_step import OneStep
from fusedface.recipes.training.optim import CENTRES, plain_state, rates_on_device, set_rate
from fusedface.recipes.training.own_rows import own_rows, with_rows, without_rows
from fusedface.recipes.training.precision import Precision
from fusedface.recipes.training.schedule import Plan

if TYPE_CHECKING:
    from fusedface.models import MarginHead
    from fusedface.recipes.training.compiling import Compiling


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
        passes: computes the gradients of a step, compiled or not.
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
        plan: Plan,
        freeze_statistics: bool,
        ema: float,
        clip_norm: float,
        precision: Precision,
        passes: "Compiling",
        scaler: torch.amp.GradScaler,
        processes: Processes | None = None,
        distiller: Distiller | None = None,
        recorder: Recorder | None = None,
        note: Callable[[str], None] = print,
    ) -> None:
        self.model, self.head, self.optimizer, self.plan = model, head, optimizer, plan
        self.freeze_statistics = freeze_statistics
        self.precision = precision
        self.processes = processes or Processes()
        self.distiller = distiller
        self.passes, self.scaler = passes, scaler
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
        self._one = OneStep(
            model, head, optimizer, passes, scaler, self.meter, clip_norm, self.processes
        )
        self._graphed = None
        if recorder is not None:
            dtype = precision.dtype
            changed = self._one.changed
            self._graphed = GraphedStep(self._one, changed, recorder, precision.device, dtype, note)

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
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def learn(self, step: int, batch: FaceBatch) -> None:
        """One step, counted from 0, on a batch of the host; call `prepare` first.

        Raises:
            NonFiniteTrainingError: on a CPU at this step; on other devices only `check_finite` raises it.
        """
        is_frozen = step < self.plan.freeze
        graphed = self._graphed if not is_frozen and self._graphed and self._graphed.is_on else None
        rates_on_device(self.optimizer, on=graphed is not None)
        set_rate(self.optimizer, self.plan.lr(step))
        if self.plan.losses(step).margin is not self.head.margin:
            self.head.set_margin(self.plan.losses(step).margin)
        if step == self.plan.freeze > 0:
            self.prepare(step)
        self._step = step
        try:
            made = (
                self._one.gradients(batch, is_frozen=is_frozen)
                if graphed is None
                else graphed(batch, self.head.margin)
            )
        except NonFiniteInputError as error:
            raise self._non_finite(steps_ago=0) from error
        self.meter.add(made.row)
        self._embeddings = made.embeddings
        if graphed is None:
            if checks.can_be_read(self.precision.device):  # it is free there: weights stay good
                self.check_finite()
            self._one.update()
        if self.average is not None:
            self.average.update(self.model, step + 1)

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
        rank = next((r for r, what in enumerate(found) if what != THE_LOSS), 0)
        what = found[rank] + (f" on rank {rank}" if rank else "")
        if steps_ago > 0:
            what += f" ({steps_ago} steps later, when it was read)"
        return NonFiniteTrainingError(
            step + 1,
            f"not finite at step {step + 1} (learning rate {self.plan.lr(step):.3g}), first {what}. The "
            "last good checkpoint is kept; a longer warm-up, a lower optim.lr or optim.clip_norm may help",
        )

    def state(self) -> dict[str, Any]:
        """Its entries of a checkpoint, without the rows of the meter, and without split class centres."""
        more = {} if self.average is None else {IN_TRAINING: self.model.state_dict()}
        if self.distiller is not None:
            more[DISTILLER] = self.distiller.state_dict()
        content = {
            "backbone": self.model.config,
            "preprocessing": self.model.preprocessing.as_dict(),
            "model": self.network.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": plain_state(self.optimizer),
            "scaler": self.scaler.state_dict(),
            **more,
        }
        if self.head.shard is None:
            return content
        return without_rows(content, self.optimizer, self.head.weight)

    def rows(self) -> dict[str, Tensor]:
        """The class centres of this process, and their optimiser state; see `own_rows`."""
        return own_rows(self.optimizer, self.head.weight)

    def load(self, checkpoint: Checkpoint, meter: Tensor, *, step: int) -> None:
        """Go on from a checkpoint; nothing changes unless all of it fits.

        Args:
            checkpoint: a checkpoint that was saved with `state`.
            meter: the rows of the meter, (n, figures).
            step: number of steps made so far, which decides where momentum must exist.

        Raises:
            ValueError: it is of another network or head, or an entry is damaged.
        """
        head = self.head
        checkpoint = with_rows(
            checkpoint, self.optimizer, head.weight, head.classes, head.num_classes
        )
        network = checkpoint.tensors("model", self.model.state_dict())
        model = network
        if IN_TRAINING in checkpoint.content:
            model = checkpoint.tensors(IN_TRAINING, self.model.state_dict())
        state = checkpoint.tensors("head", head.state_dict())
        distiller = None
        if self.distiller is not None:
            distiller = checkpoint.tensors(DISTILLER, self.distiller.state_dict())
        momentum = checkpoint.momentum(self.optimizer, may_lack=self._unchanged(step))
        scaler = checkpoint.scaler(self.scaler)
        self.model.load_state_dict(model)
        if self.average is not None:
            self.average.model.load_state_dict(network)
        head.load_state_dict(state)
        if self.distiller is not None and distiller is not None:
            self.distiller.load_state_dict(distiller)
        self.optimizer.load_state_dict(momentum)
        if scaler is not None:
            self.scaler.load_state_dict(scaler)
        self.meter.restore(meter, self.precision.device)

    def _unchanged(self, step: int) -> list[str]:
        """The groups of parameters that may have no momentum after so many steps."""
        names = [group["name"] for group in self.optimizer.param_groups]
        # A gradient scaler skips steps, at first all of them.
        if step == 0 or self.scaler.is_enabled():
            return names
        if not self.head.weight.requires_grad:
            return [CENTRES]
        return [name for name in names if name != CENTRES] if step <= self.plan.freeze else []
