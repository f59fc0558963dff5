"""The processes that torchrun has started: what they tell each other."""

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
"""For a message of another process that lives: rank 0 may verify for hours."""


@dataclass(frozen=True)
class Processes:
    """This process and those that share its run; without torchrun it is the only one, and nothing is sent.

    Attributes:
        rank: of this process, from 0.
        count: how many there are.
        group: of all of them, for tensors on the device; None for a single process.
        control: the same for messages, on the CPU, so that none waits for a GPU.
        watch: looks whether the others live.
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
        """The values of all ranks, in their order; every rank has to call it, as all that follow."""
        if self.control is None:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.control)
        return values

    def together(self, call: Callable[[], Result]) -> Result:
        """What `call` returns here; an error of any rank is raised on all of them.

        Raises:
            ValueError, OSError: as `call`; of another rank than 0, with its number.
        """
        return self._share(call, lambda _: None)[0]

    def from_first(self, call: Callable[[], Result]) -> Result:
        """What `call` returns on rank 0, which is the only one to call it; an error is raised on all."""
        if self.control is None:
            return call()
        _, results = self._share(lambda: call() if self.is_first else None, lambda result: result)
        return results[0]  # pyright: ignore[reportReturnType]

    def any_code(self, code: int) -> int:
        """The bits that are set on some rank."""
        if self.control is None:
            return code
        bits = torch.tensor([code], dtype=torch.int32)
        dist.all_reduce(bits, op=dist.ReduceOp.BOR, group=self.control)
        return int(bits)

    def norm(self, tensor: torch.Tensor) -> torch.Tensor:
        """Norm of a tensor of which each rank has a part."""
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

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Raise LostProcessError in place of what torch says when a collective has lost its partner."""
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

    def _share(
        self, call: Callable[[], Result], told: Callable[[Result], Any]
    ) -> tuple[Result, list[Any]]:
        """Own result, and what the ranks tell of theirs."""
        if self.control is None:
            return call(), []
        result = error = None
        try:
            result = call()
        except (ValueError, OSError) as caught:
            error = caught
        failure = None if error is None else (type(error), str(error))
        outcomes = self.gather((failure, None if error else told(result)))  # pyright: ignore[reportArgumentType]
        for rank, (other, _) in enumerate(outcomes):
            if other is not None:
                if error is not None:
                    raise error
                kind, text = other
                raise _error(kind, text if rank == 0 else f"rank {rank}: {text}")
        return result, [value for _, value in outcomes]  # pyright: ignore[reportReturnType]


def _hold_signals() -> None:
    """This process is about to end; torchrun, which sees that another has died, must not cut it short."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _error(kind: type[Exception], text: str) -> Exception:
    try:
        return kind(text)
    except TypeError:  # some need more than a message
        return (OSError if issubclass(kind, OSError) else ValueError)(text)


def _is_of_collective(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        word in text for word in ("gloo", "nccl", "connection", "peer", "socket")
    )


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Meet the other processes that torchrun has started, for as long as the block runs.

    Args:
        device: of this process; NCCL connects GPUs, Gloo CPUs.
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
