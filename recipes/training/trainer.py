"""The training loop: step, log, evaluate, save and stop."""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from fusedface.data import FaceBatch, FaceDataset
from fusedface.models import Backbone
from fusedface.models.shard_files import SHARDS
from fusedface.recipes.evaluation.embedding import NonFiniteEmbeddingsError
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.run_directory.environment import cpu_seconds
from fusedface.recipes.run_directory.metrics import (
    MetricsLog,
    NoLog,
    Verification,
    mean_accuracy,
)
from fusedface.recipes.run_directory.verdict import Ended
from fusedface.recipes.training.diagnose import NonFiniteTrainingError
from fusedface.recipes.training.learner_state import state_of
from fusedface.recipes.training.logbook import Logbook
from fusedface.recipes.training.own_rows import own_rows
from fusedface.recipes.training.progress import Progress
from fusedface.recipes.training.reading import LostImagesError, Reader
from fusedface.recipes.training.seeding import rng_state
from fusedface.recipes.training.shard_folder import save_rows
from fusedface.recipes.training.signals import StopRequest, WorkerDeaths
from fusedface.recipes.training.watch import SinkingWatch

if TYPE_CHECKING:
    from fusedface.recipes.training.checkpoint_folder import CheckpointFolder
    from fusedface.recipes.training.display import Display, Status
    from fusedface.recipes.training.learner import Learner
    from fusedface.recipes.training.plan import Plan

RECENT_STEPS = 20  # for the displayed pace; a mean over all steps would include the slow first ones


class End(NamedTuple):
    """How training stopped, the step, and one sentence about it."""

    how: Ended
    step: int
    message: str


class Trainer:
    """Trains a learner, step by step as planned.

    Args:
        learner: the network, its head and their optimiser.
        plan: the images of each step, and when to log, evaluate and save.
        dataset: the training images.
        num_workers: number of processes that read images.
        evaluate: verifies a network without changing it; training must not depend on the call.
        checkpoints: the folder of the checkpoints.
        display: receives the progress.
        status: the figures that the display shows.
        watch: warns of a run that is about to sink.
        began: start of the run in this process, on the clock of `time.perf_counter`.
        processes: the processes that share the run; the first one logs and saves.
    """

    def __init__(
        self,
        learner: "Learner",
        plan: "Plan",
        *,
        dataset: FaceDataset,
        num_workers: int,
        evaluate: Callable[[Backbone], Verification],
        checkpoints: "CheckpointFolder",
        display: "Display",
        status: "Status",
        watch: SinkingWatch,
        began: float,
        processes: Processes | None = None,
    ) -> None:
        self.learner, self.plan, self.dataset = learner, plan, dataset
        self.num_workers, self.evaluate = num_workers, evaluate
        self.checkpoints, self.began = checkpoints, began
        self.display, self.status, self.watch = display, status, watch
        self.processes = processes or Processes()
        self._cpu_began = cpu_seconds()
        name = learner.precision.name
        self.progress = Progress(stages_ended=plan.losses.ended, precision=name)
        self.saved_step = 0
        self._durations: deque[float] = deque(maxlen=RECENT_STEPS)

    def train(self, log: MetricsLog | NoLog) -> End:
        """Train from the current state to the end, to a signal, or to a loss that is not finite.

        Raises:
            OSError: images can no longer be read, or writing fails.
        """
        book = Logbook(
            log, self.progress, self.learner, self.plan, self.display, self.status, self.watch,
            self.processes,
        )  # fmt: skip
        with StopRequest() as stop, WorkerDeaths() as deaths:
            if self.progress.untrained is None:
                self.progress.untrained = self._evaluate(book)
                if self.plan.timetable.saves_first:
                    self.save(best=False)
            signal_name = None
            try:
                try:
                    while self.progress.step < self.plan.num_steps and signal_name is None:
                        signal_name = self._train_epoch(book, stop, deaths)
                    if signal_name is not None and self.progress.step > self.saved_step:
                        self.save(best=False)
                except LostImagesError as error:
                    self.save(best=False)  # the failed read precedes the step: the state is good
                    raise OSError(str(error)) from error
            except NonFiniteTrainingError as error:  # a GPU may tell only when the state is saved
                return End("non_finite", error.step, str(error))
        step = self.progress.step
        if step == self.plan.num_steps:
            return End("finished", step, f"trained all {step} steps")
        return End("interrupted", step, f"{signal_name} after {step} steps")

    def _train_epoch(self, book: Logbook, stop: StopRequest, deaths: WorkerDeaths) -> str | None:
        """Train the rest of the current epoch; returns the name of a signal if one stops it."""
        self.learner.prepare(self.progress.step)
        began = time.perf_counter()
        on_gpu = self.learner.precision.device.type == "cuda"
        batches = self.plan.batches.load(
            self.dataset, self.progress.step, num_workers=self.num_workers, pin_memory=on_gpu
        )
        reader = Reader(batches, self.processes, stop, deaths, book.report_unreadable)
        while (batch := reader.next()) is not None:
            if isinstance(batch, str):
                return batch
            self._train_step(batch)
            self._durations.append(time.perf_counter() - began)
            self.progress.train_seconds += self._durations[-1]
            self._after_step(book)
            if self.progress.step == self.plan.num_steps:
                return None
            began = time.perf_counter()
        return None

    def _train_step(self, batch: FaceBatch) -> None:
        self.learner.learn(self.progress.step, batch)
        self.progress.step += 1

    def _after_step(self, book: Logbook) -> None:
        """Log, evaluate and save as the timetable says."""
        step = self.progress.step
        self.status.step = step
        self.status.seconds_per_step = sum(self._durations) / len(self._durations)
        if self.plan.timetable.logs(step):
            self.learner.check_finite()
            book.log_steps()
        else:
            self.display.stepped(self.status)
        better = False
        if self.plan.timetable.evaluates(step):
            self.progress.verification = self._evaluate(book)
            accuracy = mean_accuracy(self.progress.verification)
            # Without verification sets the newest network is taken for the best.
            better = not self.progress.verification or accuracy > self.progress.best_accuracy
            self.progress.best_accuracy = max(accuracy, self.progress.best_accuracy)
        if self.plan.timetable.saves(step):
            self.save(better)

    def _evaluate(self, book: Logbook) -> Verification:
        """Verify and log, then restore the training mode."""
        network = self.learner.network.eval()
        try:
            results = self.evaluate(network)
        except NonFiniteEmbeddingsError as error:
            if self.progress.step == 0:
                raise
            raise NonFiniteTrainingError(self.progress.step, str(error)) from None
        except ValueError as error:
            if self.progress.step == 0:
                raise
            # Not saved: a run that resumed from here would never be verified at this step.
            raise OSError(f"the faces to verify can no longer be read: {error}") from error
        self.learner.prepare(self.progress.step)
        book.log_evaluation(results)
        return results

    @property
    def images_per_second(self) -> float:
        """Images per second over all training steps, with reading; 0 before the first."""
        images = self.progress.step * self.plan.batches.batch_size
        return images / self.progress.train_seconds if images else 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the run began, over all starts and resumptions."""
        return self.progress.seconds + time.perf_counter() - self.began

    @property
    def cpu_seconds(self) -> float:
        """Seconds of all CPU cores in training and evaluation, over all starts and resumptions."""
        return self.progress.cpu_seconds + cpu_seconds() - self._cpu_began

    def save(self, best: bool) -> None:
        """Write a checkpoint; raise NonFiniteTrainingError instead if the state is not finite.

        All processes call it. Each writes its class centres if they are split; the first writes the rest.
        """
        self.learner.check_finite()
        rows = self.learner.meter.state()
        spent = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}
        is_on = self.learner.compiling.is_on
        # None also between a resumption and the next step.
        self.progress.compiled = self.progress.compiled if is_on is None else is_on
        progress = vars(self.progress) | spent | {"meter": rows}
        rng = rng_state(self.learner.precision.device)
        content = state_of(self.learner) | {"rng": rng, "progress": progress}
        if (shard := self.learner.head.shard) is not None:
            centres = own_rows(self.learner.optimizer, self.learner.head.weight)
            folder = self.checkpoints.folder
            content[SHARDS] = save_rows(folder, self.progress.step, centres, shard, self.processes)
        self.processes.from_first(lambda: self.checkpoints.save(self.progress.step, content, best))
        self.saved_step = self.progress.step
