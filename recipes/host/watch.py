"""Watches the processes that share a run: whether each lives, and its message if it ends with an error.

A process that dies, or ends with an error, ends the others. One of them reports the reason:

    killed, on the same machine     after SUSPECT_SECONDS at most, with its rank, process and machine
    its machine is gone             after SILENT_SECONDS without a sign of life
    an error                        by the process that has it; the others end after GRACE_SECONDS
"""

import os
import platform
import threading
import time
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache

import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from fusedface.recipes.host.terminal import print_error
from fusedface.recipes.host.torchrun import is_shared

BEAT_SECONDS = 0.5
SUSPECT_SECONDS = 5.0
SILENT_SECONDS = 120.0
GRACE_SECONDS = 10.0
"""Time in which a process may end by itself, with a better message, after another is gone."""
STORE_SECONDS = 30.0
SAID = "said"

_shared_runs = 0  # number of runs in this process; each has its own keys


class LostProcessError(OSError):
    """Another process of the run has died or ended with an error; the message names it."""


class Watch(threading.Thread):
    """Signals every half second that this process lives, and checks the others.

    Args:
        store: the store of this run.
        rank: rank of this process.
        count: number of processes.
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
        """Signal and check; if another process is gone and this one does not end by itself, end it."""
        beat, why, since = 0, None, 0.0
        while not self._ended.wait(BEAT_SECONDS):
            beat += 1
            try:
                self.store.set(f"beat/{self.rank}", str(beat))
                if why is None and (why := self._why()) is not None:
                    since = time.monotonic()
            except (RuntimeError, dist.DistError):
                return  # the store is gone with torchrun, which ends its processes
            if why is not None and time.monotonic() - since > GRACE_SECONDS:
                self._end(why)

    def leave(self) -> None:
        """End the watch: the run has ended in this process, and the others no longer miss it."""
        self._ended.set()
        self.join()
        with suppress(RuntimeError, dist.DistError):
            self.store.set(f"left/{self.rank}", "")

    def why_lost(self) -> str | None:
        """The reason for a failed collective in a sentence; None if all processes live."""
        deadline = time.monotonic() + SUSPECT_SECONDS
        while time.monotonic() < deadline:
            with suppress(RuntimeError, dist.DistError):
                if (why := self._why()) is not None:
                    return why
            time.sleep(BEAT_SECONDS / 2)
        return None

    def _why(self) -> str | None:
        """The last message of another process, or which process is gone; None if neither."""
        if self.store.check([SAID]):
            rank, _, text = self.store.get(SAID).decode(errors="replace").partition(" ")
            return f"rank {rank}: {text}"
        others = (rank for rank in range(self.count) if rank != self.rank)
        return next((self._obituary(rank) for rank in others if self._is_gone(rank)), None)

    def _obituary(self, rank: int) -> str:
        machine, _, process = self._who(rank)
        return (
            f"rank {rank} (process {process} on {machine}) has died, and with it the run on "
            f"{self.count} processes"
        )

    def _who(self, rank: int) -> tuple[str, str, int]:
        machine, group, process = self.store.get(f"who/{rank}").decode(errors="replace").split("\n")
        return machine, group, int(process)

    def _is_gone(self, rank: int) -> bool:
        if self.store.check([f"left/{rank}"]) or not self.store.check([f"who/{rank}"]):
            return False
        *machine, process = self._who(rank)
        if tuple(machine) == self.machine:
            return not _exists(process)
        return self._is_silent(rank)

    def _is_silent(self, rank: int) -> bool:
        """Whether a process of another machine has sent no new beat for too long."""
        beat = self.store.get(f"beat/{rank}") if self.store.check([f"beat/{rank}"]) else b""
        if beat != self._beats[rank]:
            self._beats[rank], self._heard[rank] = beat, time.monotonic()
        return time.monotonic() - self._heard[rank] > SILENT_SECONDS

    def _end(self, why: str) -> None:
        """End this process, which waits for a lost one; print the reason if no other process has."""
        with suppress(RuntimeError, dist.DistError):
            if _say(self.store, self.rank, why):
                print_error(LostProcessError(why))
        os._exit(2)


def watch_next_run(rank: int, count: int) -> Watch:
    """A watch over the processes of a new run."""
    global _shared_runs  # noqa: PLW0603  as torch's own groups
    _shared_runs += 1
    return Watch(_keys(), rank, count)


def speaks(error: BaseException) -> bool:
    """Whether this process should print the error: only the first process that asks does."""
    if not is_shared():
        return True
    try:
        return _say(_keys(), int(os.environ["RANK"]), str(error))
    # The store is gone, or has no address.
    except (KeyError, ValueError, RuntimeError, dist.DistError):
        return True


def _say(store: Store, rank: int, text: str) -> bool:
    mine = f"{rank} {text}"
    return store.compare_set(SAID, "", mine).decode(errors="replace") == mine


def _keys() -> Store:
    """The store of this run, for messages of its processes."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"fusedface/{attempt}/{_shared_runs}", _store())


@lru_cache
def _store() -> Store:
    # A separate client: a store handles one call at a time, and torch's client may be waiting.
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=STORE_SECONDS))


def _exists(process: int) -> bool:
    if os.name == "nt":  # signal 0 is Ctrl-C there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process of another user
        return True
    return True
