"""The plan of a run: images, learning rate and margin of each step, and when it logs, evaluates and saves.

All of it is a function of the seed and the step, so a checkpoint does not store it. One exception: the
steps at which conditions have ended stages of `schedule.loss`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from fusedface.data import FaceBatch, FaceDataset, collate_whole
from fusedface.recipes.configuration.loss_stages import Stage
from fusedface.recipes.configuration.training import Schedule
from fusedface.recipes.training.signals import ignore_interrupts


class Batches:
    """The order of the training images.

    Each epoch is a new permutation. The remainder at its end is dropped, because a small last batch would
    have different batch statistics. A set smaller than a batch is one batch.

    Args:
        num_images: N.
        batch_size: the largest number of images per step.
        seed: seed of the permutations.
        rank: the rank of this process, which reads its part of every batch.
        num_ranks: how many processes share a batch.

    Raises:
        ValueError: a batch cannot be divided evenly.
    """

    def __init__(
        self, num_images: int, batch_size: int, seed: int, rank: int = 0, num_ranks: int = 1
    ) -> None:
        self.num_images, self.seed = num_images, seed
        self.batch_size = min(batch_size, num_images)
        if self.batch_size % num_ranks:
            why = "" if num_images >= batch_size else f" (there are {num_images} images)"
            raise ValueError(
                f"a batch of {self.batch_size} images{why} cannot be shared evenly by {num_ranks} "
                "processes: set optim.batch_size to a multiple of their number, or start another number"
            )
        self.rank, self.own_size = rank, self.batch_size // num_ranks
        self.steps_per_epoch = num_images // self.batch_size

    def rest_of_epoch(self, step: int) -> Iterator[list[int]]:
        """Indices of this process's part of each batch, from that of `step` to the end of its epoch."""
        epoch, done = divmod(step, self.steps_per_epoch)
        # One random stream per epoch; neighbouring seeds must not share a stream.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.num_images, generator=generator)
        for batch in range(done, self.steps_per_epoch):
            start = batch * self.batch_size + self.rank * self.own_size
            yield order[start : start + self.own_size].tolist()

    def load(
        self, dataset: FaceDataset, step: int, *, num_workers: int, pin_memory: bool
    ) -> DataLoader[FaceBatch]:
        """A loader of the batches of `rest_of_epoch`."""
        dataset.set_epoch(step // self.steps_per_epoch)
        return DataLoader(
            dataset,
            batch_sampler=list(self.rest_of_epoch(step)),
            num_workers=num_workers,
            pin_memory=pin_memory,
            collate_fn=collate_whole,
            # Without its own generator, a loader draws from the global one at every epoch.
            generator=torch.Generator(),
            worker_init_fn=ignore_interrupts,
        )


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Linear warm-up, then the schedule's kind.

        w warm-up steps of n in all, step i = 0, 1, ... n - 1          u = (i - w) / (n - w)
        i < w        base (i + 1) / w
        step         base gamma^(number of milestones m with i >= m n)
        cosine       base (1 + cos(pi u)) / 2
        polynomial   base (1 - u)^power

    Args:
        base: the rate after the warm-up.
        num_steps: n.
        schedule: the settings `schedule.*` of the recipe.

    Raises:
        ValueError: the warm-up leaves no other step.
    """

    base: float
    num_steps: int
    schedule: Schedule

    def __post_init__(self) -> None:
        if self.schedule.warmup_steps >= self.num_steps:
            raise ValueError(
                f"schedule.warmup_steps must be below the {self.num_steps} steps of this run, "
                f"got {self.schedule.warmup_steps}; train for longer or warm up for fewer steps"
            )

    def __call__(self, step: int) -> float:
        """The rate of the step with this index (from 0)."""
        schedule = self.schedule
        if step < schedule.warmup_steps:
            return self.base * (step + 1) / schedule.warmup_steps
        if schedule.kind == "step":
            passed = sum(step >= fraction * self.num_steps for fraction in schedule.milestones)
            return self.base * schedule.gamma**passed
        done = (step - schedule.warmup_steps) / (self.num_steps - schedule.warmup_steps)
        if schedule.kind == "cosine":
            return self.base * (1.0 + math.cos(math.pi * done)) / 2.0
        return self.base * (1.0 - done) ** schedule.power


class LossSchedule:
    """The margin of each step: a stage applies while the step i < fraction n, or until its condition holds.

    Args:
        stages: see `loss_stages.stages_of`; the last is the margin of the head.
        num_steps: n.

    Attributes:
        ended: by the index of a stage that its condition has ended: the number of steps made by then.
    """

    def __init__(self, stages: Sequence[Stage], num_steps: int) -> None:
        self.stages, self.num_steps = tuple(stages), num_steps
        self.ended: dict[int, int] = {}

    def __call__(self, step: int) -> Stage:
        """The stage of the step with this index (from 0)."""
        return self.stages[self._index(step)]

    def look(self, step: int, cosine: float) -> Stage | None:
        """End the stage of the last step if its condition holds.

        Args:
            step: number of steps made.
            cosine: the mean target cosine of the newest steps.

        Returns:
            The ended stage; None if it goes on.
        """
        index = self._index(step - 1)
        above = self.stages[index].above
        if above is None or index in self.ended or cosine <= above:
            return None
        self.ended[index] = step
        return self.stages[index]

    @property
    def last_begins(self) -> int:
        """Number of steps before the margin of the head applies."""
        return max((self._end(i) for i in range(len(self.stages) - 1)), default=0)

    def _index(self, step: int) -> int:
        last = len(self.stages) - 1
        return next((i for i in range(last) if step < self._end(i)), last)

    def _end(self, index: int) -> int:
        """Number of steps made when a stage ends."""
        latest = math.ceil(self.stages[index].until * self.num_steps)
        return min(latest, self.ended.get(index, latest))


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """The steps after which a run logs, evaluates and saves; after the last step it does all three.

    Args:
        num_steps: steps of the run.
        log_every: steps between lines of metrics.
        evaluate_every: steps between evaluations, each with a checkpoint; 0 evaluates only at the end.
        checkpoint_every: steps between the other checkpoints.
        saves_first: whether a checkpoint precedes the first step.
    """

    num_steps: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    saves_first: bool = False

    def logs(self, step: int) -> bool:
        """Whether a line of metrics follows the first `step` steps."""
        return step == self.num_steps or step % self.log_every == 0

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows them."""
        return step == self.num_steps or (
            self.evaluate_every > 0 and step % self.evaluate_every == 0
        )

    def saves(self, step: int) -> bool:
        """Whether a checkpoint follows them."""
        return self.evaluates(step) or step % self.checkpoint_every == 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a run.

    Args:
        batches: its images.
        lr: its learning rate.
        losses: its margin.
        timetable: when it logs, evaluates and saves.
        freeze: number of first steps in which only the class centres learn.
    """

    batches: Batches
    lr: LearningRate
    losses: LossSchedule
    timetable: Timetable
    freeze: int = 0

    @property
    def num_steps(self) -> int:
        """Steps of the run."""
        return self.timetable.num_steps


def num_steps(schedule: Schedule, steps_per_epoch: int) -> int:
    """The length of a run in steps, at least 1."""
    if schedule.steps is not None:
        return schedule.steps
    return max(1, round(schedule.epochs * steps_per_epoch))
