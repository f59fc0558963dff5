"""Which images make up which step: a pure function of the seed and the step, so nothing is saved."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from fusedface.data import FaceBatch, FaceDataset, collate_whole
from fusedface.recipes.training.signals import ignore_interrupts


class Batches:
    """The order of the training images.

    Each epoch is a new permutation; what is left over at its end is dropped, since a small last batch
    would have its own batch statistics. A set smaller than a batch is one batch.

    Args:
        num_images: N.
        batch_size: at most this many images a step.
        seed: of the permutations.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int) -> None:
        self.num_images, self.seed = num_images, seed
        self.batch_size = min(batch_size, num_images)
        self.steps_per_epoch = num_images // self.batch_size

    def rest_of_epoch(self, step: int) -> Iterator[list[int]]:
        """The indices of the batch of `step` and of all later ones of its epoch."""
        epoch, done = divmod(step, self.steps_per_epoch)
        # One stream of random numbers an epoch: seeds that differ by one must not share any.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.num_images, generator=generator)
        for batch in range(done, self.steps_per_epoch):
            start = batch * self.batch_size
            yield order[start : start + self.batch_size].tolist()

    def load(
        self, dataset: FaceDataset, step: int, *, num_workers: int, pin_memory: bool
    ) -> DataLoader[FaceBatch]:
        """Those batches."""
        dataset.set_epoch(step // self.steps_per_epoch)
        return DataLoader(
            dataset,
            batch_sampler=list(self.rest_of_epoch(step)),
            num_workers=num_workers,
            pin_memory=pin_memory,
            collate_fn=collate_whole,
            # Without one of its own, a loader draws from the global generator at every epoch.
            generator=torch.Generator(),
            worker_init_fn=ignore_interrupts,
        )
