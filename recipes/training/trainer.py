"""The training loop: step, measure, evaluate, save; and how it stops and goes on."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fusedface.data import FaceBatch, FaceDataset
from fusedface.kernels import NonFiniteInputError, predicted_initial_loss
from fusedface.models import Backbone, MarginHead
from fusedface.recipes.configuration.recipe import SYNTHETIC, Recipe
from fusedface.recipes.configuration.settings import to_dict
from fusedface.recipes.evaluation.evaluate import NonFiniteEmbeddingsError
from fusedface.recipes.run_directory.figures import Verification, mean_accuracy
from fusedface.recipes.run_directory.fingerprint import fingerprint
from fusedface.recipes.run_directory.metrics import MetricsLog
from fusedface.recipes.run_directory.verdict import Ended
from fusedface.recipes.training.batches import Batches
from fusedface.recipes.training.checkpoint import Checkpoint, CheckpointFolder
from fusedface.recipes.training.diagnose import first_non_finite
from fusedface.recipes.training.display import Display, Status
from fusedface.recipes.training.meter import Meter
from fusedface.recipes.training.optim import build_optimizer
from fusedface.recipes.training.precision import Precision
from fusedface.recipes.training.progress import Progress
from fusedface.recipes.training.resume import (
    momentum_of,
    progress_of,
    restore_generators,
    restore_scaler,
    tensors_of,
)
from fusedface.recipes.training.schedule import LearningRate, num_steps
from fusedface.recipes.training.seeding import rng_state
from fusedface.recipes.training.signals import StopRequest

SHOWN_UNREADABLE = 10
RECENT_STEPS = 20  # whose pace is shown: the first ones of a run are slow, and would be for long


class NonFiniteTrainingError(RuntimeError):
    """Loss or gradient became NaN or infinite; the message names step and tensor."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class LostImagesError(RuntimeError):
    """The next batch cannot be read; the states are those of the step before it."""


class End(NamedTuple):
    """How training stopped, at which step, and a sentence on it."""

    how: Ended
    step: int
    message: str


class Trainer:
    """Trains a backbone and its head as a recipe says.

    Args:
        recipe: the experiment.
        model: the backbone, on the device.
        head: the class centres, on the device.
        dataset: the training images.
        evaluate: verifies the model as it is; no result must depend on whether it was called.
        checkpoints: where the states go.
        precision: device and dtype.
        display: where progress is reported.
        began: when this process began with the run, on the clock of `time.perf_counter`.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        model: Backbone,
        head: MarginHead,
        dataset: FaceDataset,
        evaluate: Callable[[], Verification],
        checkpoints: CheckpointFolder,
        precision: Precision,
        display: Display,
        began: float,
    ) -> None:
        self.recipe, self.model, self.head, self.dataset = recipe, model, head, dataset
        self.evaluate, self.checkpoints, self.precision = evaluate, checkpoints, precision
        self.display, self.began = display, began
        self.batches = Batches(len(dataset), recipe.optim.batch_size, recipe.train.seed)
        self.num_steps = num_steps(recipe.schedule, self.batches.steps_per_epoch)
        self.lr = LearningRate(
            base=recipe.optim.lr, num_steps=self.num_steps, schedule=recipe.schedule
        )
        every = recipe.evaluation.every * self.batches.steps_per_epoch
        self.evaluate_every = math.ceil(every)  # in steps
        self.optimizer = build_optimizer(model, head, recipe.optim)
        self.scaler = precision.grad_scaler()
        self.data = fingerprint(dataset.source)
        self.meter = Meter(head.num_classes, tuple(head.state))
        self.progress = Progress()
        self.saved_step = 0
        self._inputs = torch.empty(0)
        self._durations: deque[float] = deque(maxlen=RECENT_STEPS)
        margin = head.margin
        self.status = Status(
            name=recipe.name,
            num_steps=self.num_steps,
            num_epochs=self.num_steps / self.batches.steps_per_epoch,
            batch_size=self.batches.batch_size,
            initial_loss=predicted_initial_loss(margin, head.num_classes, head.embedding_dim),
            collapse_loss=margin.collapse_loss(head.num_classes),
        )

    def train(self, log: MetricsLog) -> End:
        """Train from where the states are to the end, or to a signal, or to a loss that is not finite.

        Raises:
            OSError: images can no longer be read, or nothing can be written.
        """
        with StopRequest() as stop:
            if self.progress.untrained is None:
                self.progress.untrained = self._evaluate(log)
            try:
                while self.progress.step < self.num_steps and stop.signal_name is None:
                    self._train_epoch(log, stop)
                if stop.signal_name is not None and self.progress.step > self.saved_step:
                    self.save(best=False)
            except NonFiniteTrainingError as error:
                return End("non_finite", error.step, str(error))
            except LostImagesError as error:
                self.save(best=False)  # the step it happened in has not begun
                raise OSError(str(error)) from error
        step = self.progress.step
        if step == self.num_steps:
            return End("finished", step, f"trained all {step} steps")
        return End("interrupted", step, f"{stop.signal_name} after {step} steps")

    def _train_epoch(self, log: MetricsLog, stop: StopRequest) -> None:
        """Train what is left of the current epoch, or until a signal."""
        self.model.train()
        self.head.train()
        on_gpu = self.precision.device.type == "cuda"
        is_read = self.recipe.data.source != SYNTHETIC  # generated faces are kept by this process
        workers = self.recipe.data.num_workers if is_read else 0
        began = time.perf_counter()
        for images, labels, unreadable in self._read(workers, on_gpu):
            self._report_unreadable(unreadable)
            self._train_step(images, labels)
            self._durations.append(time.perf_counter() - began)
            self.progress.train_seconds += self._durations[-1]
            self._after_step(log)
            if stop.signal_name is not None or self.progress.step == self.num_steps:
                return
            began = time.perf_counter()

    def _read(self, num_workers: int, pin_memory: bool) -> Iterator[FaceBatch]:
        """The batches that are left of the current epoch."""
        step = self.progress.step
        try:
            yield from self.batches.load(
                self.dataset, step, num_workers=num_workers, pin_memory=pin_memory
            )
        except ValueError as error:
            raise LostImagesError(_first_cause(error)) from error
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise LostImagesError(f"a process that reads images has died: {error}") from error

    def _report_unreadable(self, problems: tuple[str, ...]) -> None:
        """Say which images cannot be read, each once, and no more than a few."""
        for problem in problems:
            if problem not in self.progress.unreadable:
                self.progress.unreadable.append(problem)
                count = len(self.progress.unreadable)
                if count <= SHOWN_UNREADABLE:
                    self.display.note(f"left out an unreadable image: {problem}")
                elif count == SHOWN_UNREADABLE + 1:
                    self.display.note("more unreadable images follow; summary.json counts them")

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        """One step on images (B, H, W, 3) uint8 and labels (B,)."""
        device = self.precision.device
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(self.progress.step)
        inputs = self.model.preprocessing.images_to_tensor(images.to(device, non_blocking=True))
        if not self.recipe.train.channels_last:
            inputs = inputs.contiguous()
        self._inputs = inputs  # of the newest step, to find out what was not finite in it
        try:
            with self.precision.autocast():
                out = self.head(self.model(inputs), labels.to(device, non_blocking=True))
        except NonFiniteInputError as error:
            raise self._non_finite(0, inputs) from error
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(out.loss).backward()
        self.scaler.unscale_(self.optimizer)
        # Not the class centres: their gradient grows as they are short, and says nothing of the loss.
        limit = self.recipe.optim.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        assert self.head.weight.grad is not None
        self.meter.add(out, norm, self.head.weight.grad.norm())
        if device.type == "cpu":  # reading the loss is free here, so the weights stay good
            self._check_finite(behind=0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.progress.step += 1

    def _check_finite(self, behind: int) -> None:
        """Raise if a step since the last line of metrics was not finite; `behind`: 1 after the step."""
        bad = self.meter.first_non_finite(self.scaler.is_enabled())
        if bad is not None:
            raise self._non_finite(bad + behind, self._inputs)

    def _non_finite(self, steps_ago: int, inputs: Tensor) -> NonFiniteTrainingError:
        """The error for a step some steps ago; `inputs` are those of the newest."""
        step = self.progress.step - steps_ago
        what = first_non_finite(self.model, self.head, inputs)
        if steps_ago > 1:
            what += f" ({steps_ago - 1} steps later, when it was read)"
        return NonFiniteTrainingError(
            step + 1,
            f"not finite at step {step + 1} (learning rate {self.lr(step):.3g}), first {what}. The last "
            "good checkpoint is kept; a longer warm-up, a lower optim.lr or optim.clip_norm may help",
        )

    def _after_step(self, log: MetricsLog) -> None:
        """Log, evaluate and save where the recipe says so, and at the end."""
        step, train = self.progress.step, self.recipe.train
        self.status.step = step
        self.status.seconds_per_step = sum(self._durations) / len(self._durations)
        last = step == self.num_steps
        logs = step % train.log_every == 0 or last
        evaluates = last or (self.evaluate_every > 0 and step % self.evaluate_every == 0)
        saves = evaluates or step % train.checkpoint_every == 0
        if logs:
            self._check_finite(behind=1)
            self._log(log)
        else:
            self.display.stepped(self.status)
        better = False
        if evaluates:
            self.progress.verification = self._evaluate(log)
            accuracy = mean_accuracy(self.progress.verification)
            better = accuracy > self.progress.best_accuracy
            self.progress.best_accuracy = max(accuracy, self.progress.best_accuracy)
        if saves:
            self.save(better)

    def _log(self, log: MetricsLog) -> None:
        """Write a line of metrics and show it."""
        figures = self.meter.take()
        self.status.figures, self.status.lr = figures, self.lr(self.progress.step - 1)
        self.progress.final_loss = figures["loss"]
        rates = {"lr": self.status.lr, "epoch": self.progress.step / self.batches.steps_per_epoch}
        pace = {"images_per_second": self.status.images_per_second, "seconds": self._train_seconds}
        log.write("train", self.progress.step, figures | rates | pace)
        self.display.logged(self.status)

    def _evaluate(self, log: MetricsLog) -> Verification:
        """Verify, log, and go back to training."""
        self.model.eval()
        try:
            results = self.evaluate()
        except NonFiniteEmbeddingsError as error:
            if self.progress.step == 0:
                raise
            raise NonFiniteTrainingError(self.progress.step, str(error)) from None
        except ValueError as error:
            if self.progress.step == 0:
                raise
            # Not saved: a run that goes on from here would never be verified at this step.
            raise OSError(f"the faces to verify can no longer be read: {error}") from error
        self.model.train()
        figures = {"verification": results, "seconds": self._train_seconds}
        log.write("evaluation", self.progress.step, figures)
        accuracies = {name: figures["accuracy"] for name, figures in results.items()}
        self.status.verification = accuracies
        return results

    @property
    def _train_seconds(self) -> float:
        """Time in training steps so far: evaluations and checkpoints would make curves incomparable."""
        return round(self.progress.train_seconds, 3)

    @property
    def images_per_second(self) -> float:
        """Mean over all training steps, with reading the images; 0 before the first."""
        images = self.progress.step * self.batches.batch_size
        return images / self.progress.train_seconds if images else 0.0

    @property
    def seconds(self) -> float:
        """Since the run began, over all its processes."""
        return self.progress.seconds + time.perf_counter() - self.began

    def save(self, best: bool) -> None:
        """Write a checkpoint of everything, unless it is no good: then raise NonFiniteTrainingError."""
        self._check_finite(behind=1)
        progress = vars(self.progress) | {"seconds": self.seconds, "meter": self.meter.state()}
        content = {
            "backbone": self.model.config,
            "preprocessing": self.model.preprocessing.as_dict(),
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "recipe": to_dict(self.recipe),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": rng_state(),
            "progress": progress,
            "data": self.data,
        }
        self.checkpoints.save(self.progress.step, content, best)
        self.saved_step = self.progress.step

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it is of something else than the recipe, or an entry is damaged; the file and
                the entry are named.
        """
        progress, meter = progress_of(checkpoint, self.num_steps)
        model = tensors_of(checkpoint, "model", self.model.state_dict())
        head = tensors_of(checkpoint, "head", self.head.state_dict())
        may_be_empty = progress.step == 0 or self.scaler.is_enabled()
        momentum = momentum_of(checkpoint, self.optimizer, may_be_empty)
        self.model.load_state_dict(model)
        self.head.load_state_dict(head)
        self.optimizer.load_state_dict(momentum)
        restore_scaler(checkpoint, self.scaler)
        restore_generators(checkpoint)
        self.meter.restore(meter, self.precision.device)
        self.progress = progress
        self.saved_step = progress.step
        self.status.step = progress.step
        latest = progress.verification or progress.untrained or {}
        self.status.verification = {name: figures["accuracy"] for name, figures in latest.items()}


def _first_cause(error: ValueError) -> str:
    """Its message; what a worker process raised comes with the worker's traceback before it."""
    return str(error).rpartition("\nValueError: ")[2].strip()
