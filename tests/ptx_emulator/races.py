"""Whether two that are not ordered touch the same half-word, one of them changing it."""

import numpy as np

from ptx_emulator.ptx import PtxError


class RaceError(PtxError):
    """Two warps (programs) touch a half-word of shared (global) memory in any order; one changes it."""


class RaceChecker:
    """Which owner last read and wrote each half-word, and in which epoch.

    Owners are warps and epochs lie between barriers, or owners are programs and there is one epoch. Two
    owners that touch a half-word in one epoch, one of them changing it, are a race, in whatever order
    they ran.
    """

    MANY = -2

    def __init__(self, num_halves: int, what: str) -> None:
        self.what = what
        self.reader, self.writer = (np.full(num_halves, -1, np.int32) for _ in range(2))
        self.read_epoch, self.write_epoch = (np.full(num_halves, -1, np.int32) for _ in range(2))

    def read(self, owners, epoch, offsets, mask, width, instruction) -> None:
        """`width` bytes at each of `offsets` (where `mask` has it) are read by `owners`."""
        at, owners = self._touched(owners, offsets, mask, width)
        self._read(owners, epoch, at, instruction)

    def write(
        self, owners, epoch, offsets, mask, width, instruction, memory=None, values=None
    ) -> None:
        """Likewise; with `memory` and `values`, as half-words, what changes nothing is no race."""
        at, owners = self._touched(owners, offsets, mask, width)
        if values is not None:
            values = (values if mask is None else values[mask]).ravel()
        self._write(owners, epoch, at, instruction, memory, values)

    def _read(self, owners, epoch, at, instruction):
        other = (self.write_epoch[at] == epoch) & (self.writer[at] != owners)
        self._report(other, at, owners, self.writer, "written", instruction)
        known = (self.read_epoch[at] == epoch) & (self.reader[at] != owners)
        self.reader[at], self.read_epoch[at] = owners, epoch
        self.reader[at[known | (self.reader[at] != owners)]] = self.MANY

    def _write(self, owners, epoch, at, instruction, memory=None, values=None):
        changed = np.ones(len(at), bool) if memory is None else memory[at] != values
        other = (self.read_epoch[at] == epoch) & (self.reader[at] != owners)
        self._report(other & changed, at, owners, self.reader, "read", instruction)
        other = (self.write_epoch[at] == epoch) & (self.writer[at] != owners)
        self._report(other & changed, at, owners, self.writer, "written", instruction)
        self.writer[at], self.write_epoch[at] = owners, epoch
        if memory is not None:
            memory[at] = values
            changed = memory[at] != values
        other = self.writer[at] != owners
        self._report(other & changed, at, owners, self.writer, "written", instruction)

    def _touched(self, owners, offsets, mask, width):
        if mask is not None:
            offsets, owners = offsets[mask], owners[mask]
        halves = (offsets // 2)[:, None] + np.arange(max(width // 2, 1))
        return halves.ravel(), np.repeat(owners, halves.shape[1])

    def _report(self, wrong, at, owners, others, what, instruction):
        if wrong.any():
            i = int(np.argmax(wrong))
            raise RaceError(
                f"half-word {at[i]} of {self.what} is {what} by {others[at[i]]} and, without a barrier "
                f"in between, touched by {owners[i]}: {instruction}"
            )


class SharedRaceChecker(RaceChecker):
    """Of warps, with what is asynchronous.

    A copy writes when it is issued, and nobody may touch its target until it has been waited for. What
    ordinary instructions wrote is not seen by the asynchronous proxy (tensor copies, wgmma) before
    their writer, or somebody after a barrier, has executed fence.proxy.async.
    """

    def __init__(self, num_halves: int) -> None:
        super().__init__(num_halves, "shared memory (of warps)")
        self._in_flight, self._unfenced = (np.zeros(num_halves, bool) for _ in range(2))

    def read(self, owners, epoch, offsets, mask, width, instruction, by_proxy=False) -> None:
        """See `RaceChecker`; `by_proxy`: by the asynchronous one."""
        at, owners = self._touched(owners, offsets, mask, width)
        if by_proxy:
            self._fenced(at, owners, instruction)
        self._not_in_flight(at, owners, instruction)
        self._read(owners, epoch, at, instruction)

    def write(
        self, owners, epoch, offsets, mask, width, instruction, memory=None, values=None
    ) -> None:
        """By an ordinary instruction; see `RaceChecker`."""
        at, owners = self._touched(owners, offsets, mask, width)
        self._not_in_flight(at, owners, instruction)
        if values is not None:
            values = (values if mask is None else values[mask]).ravel()
        self._write(owners, epoch, at, instruction, memory, values)
        self._unfenced[at] = True

    def copy(self, owners, epoch, offsets, mask, width, instruction, by_proxy, late) -> None:
        """A copy to these bytes is issued; `late`: it has yet to arrive."""
        at, owners = self._touched(owners, offsets, mask, width)
        if by_proxy:
            self._fenced(at, owners, instruction)
        self._not_in_flight(at, owners, instruction)
        self._write(owners, epoch, at, instruction)
        self._unfenced[at], self._in_flight[at] = False, late
        if by_proxy and not late:
            self.writer[at] = self.write_epoch[at] = -1

    def arrive(self, owners, epoch, offsets, mask, width, instruction) -> None:
        """A copy is there for those who waited, which `owners` did."""
        at, owners = self._touched(owners, offsets, mask, width)
        self._in_flight[at] = False
        self._write(owners, epoch, at, instruction)

    def arrive_by_barrier(self, offsets, width) -> None:
        """A copy is there for all who wait for its barrier; those who do not are not noticed."""
        at, _ = self._touched(offsets, offsets, None, width)
        self._in_flight[at] = False
        self.writer[at] = self.write_epoch[at] = -1

    def fence(self, warps: range, epoch: int, first: int, last: int) -> None:
        """`warps` execute fence.proxy.async; half-words [first, last) are their programs'."""
        own = slice(first, last)
        writer = self.writer[own]
        before = (writer >= warps.start) & (writer < warps.stop) | (self.write_epoch[own] < epoch)
        self._unfenced[own] &= ~before

    def _not_in_flight(self, at, owners, instruction):
        in_flight = self._in_flight[at]
        self._report(in_flight, at, owners, self.writer, "being copied to", instruction)

    def _fenced(self, at, owners, instruction):
        wrong = self._unfenced[at]
        if wrong.any():
            i = int(np.argmax(wrong))
            raise RaceError(
                f"half-word {at[i]} of {self.what} is written by {self.writer[at[i]]} and, without "
                f"fence.proxy.async in between, touched asynchronously: {instruction}"
            )
