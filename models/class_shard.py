"""The share of the class centres that one of several processes holds: choose, draw, load and gather it."""

from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from fusedface.kernels import Group
from fusedface.kernels.sharded import classes_of, resolve_group

BLOCK_ELEMENTS = 2**20  # of class centres drawn at a time
FILL = 16  # torch draws normal numbers in sixteens


class ClassShard:
    """The classes whose centres this process holds.

    Attributes:
        group: the processes that share the class centres.
        rank: of this process in the group.
        count: how many processes there are.
        classes: those whose centres this process holds, split as by `torch.chunk`.

    Raises:
        TypeError, ValueError: as `fusedface.kernels.sharded.resolve_group`.
    """

    def __init__(self, group: Group, num_classes: int) -> None:
        self.group = resolve_group(group)
        self.rank, self.count = self.group.rank(), self.group.size()
        self.num_classes = num_classes
        self.classes = classes_of(num_classes, self.rank, self.count)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: a copy of a head shares with the same processes."""
        return self

    def __str__(self) -> str:
        return (
            f"classes {self.classes.start} to {self.classes.stop - 1} on rank {self.rank} of {self.count}"
            if self.classes
            else f"no classes on rank {self.rank} of {self.count}"
        )

    def check_same(self, arguments: tuple[Any, ...]) -> None:
        """Raise ValueError, on every rank, unless all ranks have the same arguments."""
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, arguments, group=self.group)
        for rank, others in enumerate(found):
            if others != found[0]:
                raise ValueError(
                    f"a MarginHead must have the same arguments on every rank, got {found[0]} on rank 0 "
                    f"and {others} on rank {rank}"
                )

    def rows_of(self, weight: Tensor, name: str) -> Tensor:
        """This rank's rows of all class centres (C, D); `weight` itself if it has only these rows.

        Raises:
            ValueError: `weight` has neither number of rows.
        """
        if len(weight) == self.num_classes:
            return weight[self.classes.start : self.classes.stop]
        if len(weight) != len(self.classes):
            raise ValueError(
                f"{name} must have all {self.num_classes} class centres or the {len(self.classes)} of rank "
                f"{self.rank} of {self.count}, got {len(weight)}: the rows of one rank fit no other number "
                "of ranks; load what full_state_dict() has returned"
            )
        return weight

    def collect(self, weight: Tensor) -> Tensor | None:
        """The class centres of all ranks (C, D) on the CPU of rank 0, None elsewhere."""
        if self.rank > 0:
            if self.classes:
                dist.send(weight.contiguous(), group=self.group, group_dst=0)
            return None
        full = torch.empty(self.num_classes, *weight.shape[1:], dtype=weight.dtype)
        for rank in range(self.count):
            classes = classes_of(self.num_classes, rank, self.count)
            rows = weight
            if rank > 0 and classes:
                rows = weight.new_empty(len(classes), *weight.shape[1:])
                dist.recv(rows, group=self.group, group_src=rank)
            if classes:
                full[classes.start : classes.stop] = rows
        return full


def draw_rows(own: Tensor, rows: range, num_rows: int, std: float) -> None:
    """Fill `own` with its rows of a (num_rows, D) tensor of normal numbers, drawn a block at a time.

    The generator ends in the same state as after drawing the whole tensor. On a CPU the rows are also
    the same as if the whole tensor were drawn at once.
    """
    if own.is_meta:
        return
    dim = own.shape[1]
    step = max(BLOCK_ELEMENTS // dim // FILL, 1) * FILL
    # The last block takes the rest: torch draws fewer than sixteen numbers in another way.
    starts = range(0, max(num_rows - step, 0) + 1, step)
    for start in starts:
        stop = num_rows if start == starts[-1] else start + step
        block = own.new_empty(stop - start, dim).normal_(std=std)
        first, last = max(start, rows.start), min(stop, rows.stop)
        if first < last:
            own[first - rows.start : last - rows.start] = block[first - start : last - start]
