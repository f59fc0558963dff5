"""The processes that torchrun has started: what they tell each other, and what happens if one dies.

A process that dies, or ends with an error, ends the others. One of them says what happened:

    killed, on the same machine     after SUSPECT_SECONDS at most, named by rank, process and machine
    its machine is gone             after SILENT_SECONDS without a sign of life
    an error                        said by the process that has it; the others end after GRACE_SECONDS
"""

import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from fusedface.recipes.host.terminal import print_error

Result = TypeVar("Result")

BEAT_SECONDS = 0.5
SUSPECT_SECONDS = 5.0
SILENT_SECONDS = 120.0
GRACE_SECONDS = 10.0
"""How long a process may take to end by itself, with a better message, once another is gone."""
LONGEST_WAIT = timedelta(days=1)
"""For a message of another process that lives: rank 0 may verify for hours."""

STORE_SECONDS = 30.0
SAID = "said"

_joined = 0  # how many runs this process has shared with others: each has keys of its own


class LostProcessError(OSError):
    """Another process of the run has died, which the message names, or has ended with an error."""


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
    watch: "Watch | None" = None

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
        """Of a tensor that the ranks have parts of."""
        if self.group is None:
            return tensor.norm()
        total = tensor.square().sum()
        dist.all_reduce(total, group=self.group)
        return total.sqrt()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Of the tensors of all ranks."""
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


def is_shared() -> bool:
    """Whether torchrun has started this process, with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def own_device(device: torch.device) -> torch.device:
    """The device of this process, when a user has asked for one of this kind.

    Raises:
        ValueError: there is none for it.
    """
    if not is_shared() or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ValueError(f"several processes train on cpu or cuda, not on {device.type}")
    if device.index is not None:
        raise ValueError(
            f"under torchrun each process has a GPU of its own: --device cuda, not {device}"
        )
    local, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= found:
        raise ValueError(
            f"process {local} of this machine has no GPU, there are {found}: start no more with "
            "--nproc-per-node, or train with --device cpu"
        )
    return torch.device("cuda", local)


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Meet the other processes that torchrun has started, for as long as the block runs.

    Args:
        device: of this process; NCCL connects GPUs, Gloo CPUs.
    """
    if not is_shared():
        yield Processes()
        return
    global _joined  # noqa: PLW0603  as torch's own groups
    _joined += 1
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    control = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    assert isinstance(control, dist.ProcessGroup)
    rank, count = dist.get_rank(), dist.get_world_size()
    watch = Watch(_keys(), rank, count)
    processes = Processes(rank, count, dist.group.WORLD, control, watch)
    with processes.alive():
        yield processes
    watch.leave()


def speaks(error: BaseException) -> bool:
    """Whether this process is to say what went wrong: of all that end with it, the first to ask."""
    if not is_shared():
        return True
    try:
        return _say(_keys(), int(os.environ["RANK"]), str(error))
    except (RuntimeError, dist.DistError):  # nobody left to ask
        return True


def _say(store: Store, rank: int, text: str) -> bool:
    mine = f"{rank} {text}"
    return store.compare_set(SAID, "", mine).decode(errors="replace") == mine


def _keys() -> Store:
    """Where the processes of this run leave word."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"fusedface/{attempt}/{_joined}", _store())


@lru_cache
def _store() -> Store:
    # A client of its own: a store answers one call at a time, and torch's may wait in one.
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=STORE_SECONDS))


class Watch(threading.Thread):
    """Says every half second that this process lives, and looks whether the others do.

    Args:
        store: of this run only.
        rank: of this process.
        count: of all of them.
    """

    def __init__(self, store: Store, rank: int, count: int) -> None:
        super().__init__(daemon=True, name="watch")
        self.store, self.rank, self.count = store, rank, count
        self.machine = (platform.node(), os.environ.get("GROUP_RANK", "0"))
        self.store.set(f"who/{rank}", "\n".join((*self.machine, str(os.getpid()))))
        self._beats: list[bytes] = [b""] * count
        self._heard = [time.monotonic()] * count
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        """Beat and look; end this process if another is gone and it does not end by itself."""
        beat, why, since = 0, None, 0.0
        while not self._ended.wait(BEAT_SECONDS):
            beat += 1
            try:
                self.store.set(f"beat/{self.rank}", str(beat))
                if why is None and (why := self._why()) is not None:
                    since = time.monotonic()
            except (RuntimeError, dist.DistError):
                return  # the store is gone, and with it torchrun, which ends its processes
            if why is not None and time.monotonic() - since > GRACE_SECONDS:
                self._end(why)

    def leave(self) -> None:
        """The run has come to its end here: from now on this process is not missed."""
        self._ended.set()
        self.join()
        with suppress(RuntimeError, dist.DistError):
            self.store.set(f"left/{self.rank}", "")

    def why_lost(self) -> str | None:
        """After a collective has failed: why, in a sentence; None if all live."""
        deadline = time.monotonic() + SUSPECT_SECONDS
        while time.monotonic() < deadline:
            with suppress(RuntimeError, dist.DistError):
                if (why := self._why()) is not None:
                    return why
            time.sleep(BEAT_SECONDS / 2)
        return None

    def _why(self) -> str | None:
        """What another process has said before it ended; else which one is gone."""
        if self.store.check([SAID]):
            rank, _, text = self.store.get(SAID).decode(errors="replace").partition(" ")
            return f"rank {rank}: {text}"
        for rank in range(self.count):
            if rank != self.rank and self._is_gone(rank):
                machine, _, process = self._who(rank)
                return (
                    f"rank {rank} (process {process} on {machine}) has died, and with it the run on "
                    f"{self.count} processes"
                )
        return None

    def _who(self, rank: int) -> tuple[str, str, int]:
        machine, group, process = self.store.get(f"who/{rank}").decode(errors="replace").split("\n")
        return machine, group, int(process)

    def _is_gone(self, rank: int) -> bool:
        if self.store.check([f"left/{rank}"]) or not self.store.check([f"who/{rank}"]):
            return False
        *machine, process = self._who(rank)
        if tuple(machine) == self.machine:
            return not _exists(process)
        beat = self.store.get(f"beat/{rank}") if self.store.check([f"beat/{rank}"]) else b""
        if beat != self._beats[rank]:
            self._beats[rank], self._heard[rank] = beat, time.monotonic()
        return time.monotonic() - self._heard[rank] > SILENT_SECONDS

    def _end(self, why: str) -> None:
        """End this process, which waits for one that is gone, and say why if nobody has."""
        with suppress(RuntimeError, dist.DistError):
            if _say(self.store, self.rank, why):
                print_error(LostProcessError(why))
        os._exit(2)


def _exists(process: int) -> bool:
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
