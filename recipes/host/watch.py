"""The processes that share a run, seen from outside: whether each still lives, and what it said at its end.

A process that dies, or ends with an error, ends the others. One of them says what happened:

    killed, on the same machine     after SUSPECT_SECONDS at most, named by rank, process and machine
    its machine is gone             after SILENT_SECONDS without a sign of life
    an error                        said by the process that has it; the others end after GRACE_SECONDS
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
"""How long a process may take to end by itself, with a better message, once another is gone."""
STORE_SECONDS = 30.0
SAID = "said"

_shared_runs = 0  # that this process has had a part in: each has keys of its own


class LostProcessError(OSError):
    """Another process of the run has died, which the message names, or has ended with an error."""


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


def watch_next_run(rank: int, count: int) -> Watch:
    """The watch over the processes that have just met for a run."""
    global _shared_runs  # noqa: PLW0603  as torch's own groups
    _shared_runs += 1
    return Watch(_keys(), rank, count)


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
    return PrefixStore(f"fusedface/{attempt}/{_shared_runs}", _store())


@lru_cache
def _store() -> Store:
    # A client of its own: a store answers one call at a time, and torch's may wait in one.
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=STORE_SECONDS))


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
