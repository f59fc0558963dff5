"""Barriers in shared memory that count arrivals and bytes (mbarrier), and what waits for them."""

from dataclasses import dataclass, field
from typing import Protocol

from ptx_emulator.ptx import PtxError


class Transfer(Protocol):
    """A copy on its way, which reports to a barrier."""

    num_bytes: int

    def arrive(self) -> None:
        """Write what it brings."""


@dataclass
class Mbarrier:
    """A phase is over when all of `count` have arrived and all expected bytes are there.

    Transfers arrive as late as a wait allows: when their phase is waited for and lacks nothing else.
    """

    count: int
    missing: int = field(init=False)  # arrivals
    expected: int = 0  # bytes
    parity: int = 0  # of the phase that goes on
    transfers: list[Transfer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.missing = self.count

    def arrive(self, count: int, num_bytes: int, where: object) -> None:
        """`count` arrivals, the last of which expects `num_bytes` more."""
        self.missing -= count
        self.expected += num_bytes
        if self.missing < 0:
            raise PtxError(f"more than {self.count} arrive at a barrier: {where}")
        self._settle()

    def send(self, transfer: Transfer, early: bool) -> None:
        """`transfer` is issued, and arrives at once if it is `early`."""
        self.transfers.append(transfer)
        if early:
            self._take()

    def is_over(self, parity: int) -> bool:
        """Whether the phase of `parity` is, once what is on its way has come as far as it completes it."""
        if self.parity == parity and not self.missing:
            coming = sum(transfer.num_bytes for transfer in self.transfers)
            if coming == self.expected:
                self._take()
        return self.parity != parity

    def __str__(self) -> str:
        coming = sum(transfer.num_bytes for transfer in self.transfers)
        return (
            f"a barrier lacks {self.missing} of {self.count} arrivals and {self.expected} bytes, of which "
            f"{coming} are on their way"
        )

    def _take(self) -> None:
        for transfer in self.transfers:
            transfer.arrive()
            self.expected -= transfer.num_bytes
        self.transfers.clear()
        self._settle()

    def _settle(self) -> None:
        if not self.missing and not self.expected:
            self.parity, self.missing = 1 - self.parity, self.count
