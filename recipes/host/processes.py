"""The processes that torchrun has started, and their communication."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from fusedface.recipes.host.torchrun import is_shared
from fusedface.recipes.host.watch import LostProcessError, Watch, watch_next_run

Result = TypeVar("Result")

LONGEST_WAIT = timedelta(days=1)
"""Time limit for a message of another living process; rank 0 may verify for hours."""


@dataclass(frozen=True)
class Processes:
    """This process and those that share its run. Without torchrun there is one, and nothing is sent.

    Attributes:
        rank: rank of this process, from 0.
        count: number of processes.
        group: their group for tensors on the device; None for a single process.
        control: their group for messages, on the CPU, so that no message waits for a GPU.
        watch: checks that the others live.
    """

    rank: int = 0
    count: int = 1
    group: dist.ProcessGroup | None = None
    control: dist.ProcessGroup | None = None
    watch: Watch | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def gather(self, value: Result) -> list[Result]:
        """The values of all ranks, in order. Every rank must call this method and all that follow."""
        if self.control is None:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.control)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """The ranks run the block, each for itself; an error in it on any rank is raised on all ranks.

        Raises:
            ValueError, OSError: as the block; the message begins with the rank unless it is rank 0.
        """
        error = None
        try:
            yield
        except (ValueError, OSError) as caught:
            error = caught
        self._agree(error, None)

    def from_first(self, call: Callable[[], Result]) -> Result:
        """The result of `call`, which only rank 0 calls; an error is raised on all ranks."""
        result = error = None
        try:
            result = call() if self.is_first else None
        except (ValueError, OSError) as caught:
            error = caught
        return self._agree(error, result)[0]  # pyright: ignore[reportReturnType]

    def any_code(self, code: int) -> int:
        """The bits that are set on at least one rank."""
        if self.control is None:
            return code
        bits = torch.tensor([code], dtype=torch.int32)
        dist.all_reduce(bits, op=dist.ReduceOp.BOR, group=self.control)
        return int(bits)

    def norm(self, tensor: torch.Tensor) -> torch.Tensor:
        """Norm of a tensor that is split over the ranks."""
        if self.group is None:
            return tensor.norm()
        total = tensor.square().sum()
        dist.all_reduce(total, group=self.group)
        return total.sqrt()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum of the tensors of all ranks."""
        if self.group is not None:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of all ranks, in order; each rank has the same number of them."""
        if self.group is None:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(parts, tensor.contiguous(), group=self.group)
        return torch.cat(parts)

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Replace torch's error when another process is lost in a collective by LostProcessError."""
        try:
            yield
        except RuntimeError as error:
            if self.watch is None or not _is_of_collective(error):
                raise
            _hold_signals()
            lost = self.watch.why_lost()
            if lost is None:
                raise
            raise LostProcessError(lost) from error

    def _agree(self, error: Exception | None, result: Result) -> list[Result]:
        """The results of all ranks, if none of them has an error; else each rank raises one."""
        failure = None if error is None else (type(error), str(error))
        outcomes = [(None, result)] if self.control is None else self.gather((failure, result))
        if error is not None:
            raise error
        for rank, (other, _) in enumerate(outcomes):
            if other is not None:
                kind, text = other
                raise _error(kind, text if rank == 0 else f"rank {rank}: {text}")
        return [found for _, found in outcomes]


def _hold_signals() -> None:
    """Ignore SIGTERM in a process that is about to end, because torchrun sends it when another has died."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _error(kind: type[Exception], text: str) -> Exception:
    try:
        return kind(text)
    except TypeError:  # some exceptions need more than a message
        return (OSError if issubclass(kind, OSError) else ValueError)(text)


def _is_of_collective(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        word in text for word in ("gloo", "nccl", "connection", "peer", "socket")
    )


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Connect with the other processes that torchrun has started while the block runs.

    Args:
        device: device of this process; NCCL connects GPUs, Gloo connects CPUs.
    """
    if not is_shared():
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    control = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    assert isinstance(control, dist.ProcessGroup)
    rank, count = dist.get_rank(), dist.get_world_size()
    watch = watch_next_run(rank, count)
    processes = Processes(rank, count, dist.group.WORLD, control, watch)
    with processes.alive():
        yield processes
    watch.leave()
