"""The images of each step: a function of the seed and the step, so a checkpoint does not store it."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from fusedface.data import FaceBatch, FaceDataset, collate_whole
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
