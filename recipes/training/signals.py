"""Ctrl-C and SIGTERM as a request: the running step ends, then the run saves and stops.

They may come to a whole group of processes. SIGTERM ends those that read images, and the run must not hear
of that in the middle of a step.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

REPEAT_SECONDS = 3.0
"""With torchrun, a process may get the same request directly and again from torchrun."""


class StopRequest:
    """While active, records SIGINT or SIGTERM.

    For REPEAT_SECONDS further signals are the same request. After that, the next one has its usual effect.

    Attributes:
        signal_name: such as "SIGINT" after a signal, else None.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._asked = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread receives signals and may install a handler.
        if _is_main():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *raised: object) -> None:
        if self.signal_name is None:  # else a repeat may still come, while the end is written down
            self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.signal_name is None:
            self.signal_name, self._asked = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self._asked > REPEAT_SECONDS:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


class WorkerDeaths:
    """While active, tells of the death of a process that reads images only while a batch is read.

    torch raises its error in a handler of SIGCHLD, so at any line of the main thread, also in the middle of
    a step. Here the death waits for the next `reading`.
    """

    def __init__(self) -> None:
        self._tell: Callable[[int, FrameType | None], Any] | None = None
        self._is_reading = self._has_died = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._tell is not None:
            signal.signal(signal.SIGCHLD, self._tell)
            self._tell = None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A batch is read in this block.

        Raises:
            RuntimeError: of torch, if a process that reads images has died.
        """
        self._is_reading = True
        try:
            if self._has_died and self._tell is not None:
                self._has_died = False
                self._tell(signal.SIGCHLD, None)
            yield
            self._take_over()
        finally:
            self._is_reading = False

    def _take_over(self) -> None:
        """Take the place of torch's handler, which the first loader with such processes installs."""
        if not hasattr(signal, "SIGCHLD") or not _is_main():  # there is none on Windows
            return
        found = signal.getsignal(signal.SIGCHLD)
        if callable(found) and getattr(found, "__module__", "").startswith("torch."):
            self._tell = found
            signal.signal(signal.SIGCHLD, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_reading and self._tell is not None:
            self._tell(number, frame)
        else:
            self._has_died = True


def ignore_interrupts(worker: int) -> None:  # noqa: ARG001
    """Make a worker process ignore Ctrl-C, which a terminal sends to every process of a run.

    Not SIGTERM: by it, Python ends those that are left when the run ends, and waits for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
