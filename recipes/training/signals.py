"""Ctrl-C and SIGTERM as a request: the running step ends, then the run saves and stops."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequest:
    """While active, records SIGINT or SIGTERM; a second signal has its usual effect at once.

    Attributes:
        signal_name: such as "SIGINT" after a signal, else None.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread receives signals and may install a handler.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.signal_name = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


def ignore_interrupts(worker: int) -> None:  # noqa: ARG001
    """Make a worker process ignore Ctrl-C, which a terminal sends to every process of a run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
