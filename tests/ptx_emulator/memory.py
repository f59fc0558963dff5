"""Global and shared memory with their bounds.

A kernel never sees host addresses: argument i has a window of 2^44 bytes of its own in which the tensor
lies in the middle, so an access past either end of a tensor cannot reach another one.
"""

import ctypes

import numpy as np

from ptx_emulator.barriers import Mbarrier
from ptx_emulator.ptx import PtxError
from ptx_emulator.races import RaceChecker, SharedRaceChecker

WINDOW_BITS = 44
GRANULE = 16  # bytes of the widest access
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
POISON = 0xFF  # of memory and registers that nothing has written: NaN in every format


class OutOfBoundsError(PtxError):
    """An access outside every argument, or outside the shared memory of the program."""


class _Views:
    """Bytes as arrays of items and of short vectors of items."""

    def __init__(self, data: np.ndarray) -> None:
        self._data = data
        self._views: dict[tuple[int, int], np.ndarray] = {}

    def get(self, size: int, count: int) -> np.ndarray:
        key = (size, count)
        if key not in self._views:
            items = self._data.view(UNSIGNED[size])
            self._views[key] = items if count == 1 else items.reshape(-1, count)
        return self._views[key]


class Region:
    """One tensor argument: `address` is what the kernel sees of it."""

    def __init__(self, index: int, name: str, host_address: int, num_bytes: int) -> None:
        before = host_address % GRANULE
        length = -(-(before + num_bytes) // GRANULE) * GRANULE
        buffer = (ctypes.c_uint8 * length).from_address(host_address - before)
        self.views = _Views(np.frombuffer(buffer, np.uint8))
        middle = (index + 1 << WINDOW_BITS) + (1 << WINDOW_BITS - 1)
        self.name, self.num_bytes = name, num_bytes
        self.address = middle + host_address % 4096
        self.origin = self.address - before
        self.races: RaceChecker | None = None

    def check_races(self) -> None:
        """Between programs, from now on."""
        self.races = RaceChecker(len(self.views.get(2, 1)), f"argument {self.name!r}")


class GlobalMemory:
    """The tensor arguments of one launch."""

    def __init__(self, regions: list[Region]) -> None:
        self._by_window = {region.address >> WINDOW_BITS: region for region in regions}

    def load(self, programs, addresses, mask, size, count, instruction):
        """(lanes,) or (lanes, count) unsigned items; anything where masked out.

        Args:
            programs: which program each lane is of, (lanes,).
            addresses: as the kernel has them, (lanes,).
            mask: (lanes,), or None for all.
            size: bytes of an item.
            count: items of a vector.
            instruction: what is to blame.
        """
        found = self._locate(addresses, mask, size, count, instruction)
        if found is None:
            shape = (len(addresses), count) if count > 1 else len(addresses)
            return np.zeros(shape, UNSIGNED[size])
        region, offsets = found
        width = size * count
        if region.races is not None:
            region.races.read(programs, 0, offsets, mask, width, instruction)
        return region.views.get(size, count).take(offsets // width, axis=0)

    def store(self, programs, addresses, mask, size, count, values, instruction):
        """`values` as `load` returns them."""
        found = self._locate(addresses, mask, size, count, instruction)
        if found is not None:
            region, offsets = found
            who = programs, 0
            _store(region.views, region.races, who, offsets, mask, size, values, instruction)

    def _locate(self, addresses, mask, size, count, instruction):
        """The argument, and byte offsets into its views."""
        active = addresses if mask is None else addresses[mask]
        if not len(active):
            return None
        low, high = int(active.min()), int(active.max())
        width = size * count
        region = self._by_window.get(low >> WINDOW_BITS)
        if region is None or high >> WINDOW_BITS != low >> WINDOW_BITS:
            raise OutOfBoundsError(
                f"addresses {low:#x} to {high:#x} are not within one argument: {instruction}"
            )
        begin, end = low - region.address, high + width - region.address
        if begin < 0 or end > region.num_bytes:
            raise OutOfBoundsError(
                f"bytes {begin} to {end} of argument {region.name!r}, which has {region.num_bytes}: "
                f"{instruction}"
            )
        if width > 1 and (active & np.uint64(width - 1)).any():
            raise PtxError(f"misaligned address in argument {region.name!r}: {instruction}")
        offsets = addresses - np.uint64(region.origin)
        if mask is not None:
            offsets = np.where(mask, offsets, np.uint64(low - region.origin))
        return region, offsets.astype(np.int64)


def _store(views, races, who, offsets, mask, size, values, instruction) -> None:
    """Items or vectors of `size` bytes an item; `who` is owners and epoch, as `RaceChecker` takes them."""
    count = values.shape[1] if values.ndim == 2 else 1
    width = size * count
    if races is not None:
        memory = halves = None
        if size > 1:
            memory, halves = views.get(2, 1), np.ascontiguousarray(values).view(np.uint16)
            halves = halves.reshape(len(offsets), -1)
        races.write(*who, offsets, mask, width, instruction, memory, halves)
    index, view = offsets // width, views.get(size, count)
    if mask is None:
        view[index] = values
    else:
        view[index[mask]] = values[mask]


class SharedMemory:
    """Shared memory of all programs of a batch, one after the other, poisoned at first."""

    def __init__(self, num_programs: int, size: int, check_races: bool) -> None:
        self.size = size
        self.stride = -(-max(size, 1) // 1024) * 1024
        self._views = _Views(np.full(num_programs * self.stride, POISON, np.uint8))
        halves = num_programs * self.stride // 2
        self.races = SharedRaceChecker(halves) if check_races else None
        self.barriers: dict[int, Mbarrier] = {}  # by their byte, from the beginning of the batch
        self.num_events = 0  # of barriers: what has changed since somebody looked

    def raw(self, size: int, count: int) -> np.ndarray:
        """All of it as rows of `count` items, past the checks."""
        return self._views.get(size, count)

    def locate(self, frame, addresses, mask, width, instruction):
        """Byte offsets from the beginning of the batch, checked; 0 where masked out."""
        offsets = addresses.astype(np.int64)
        wrong = (offsets + width > self.size) | (offsets % width != 0)
        if mask is not None:
            wrong &= mask
        if wrong.any():
            lane = int(np.argmax(wrong))
            raise OutOfBoundsError(
                f"address {offsets[lane]} of {self.size} bytes of shared memory, access of {width} "
                f"bytes, thread {frame.tid[lane]}: {instruction}"
            )
        offsets = offsets + frame.shared_base
        return offsets if mask is None else np.where(mask, offsets, 0)

    def load(self, frame, offsets, mask, size, count, instruction):
        """As `GlobalMemory.load`, at offsets of `locate`."""
        if self.races is not None:
            self.races.read(frame.warp, frame.batch.epoch, offsets, mask, size * count, instruction)
        return self._views.get(size, count).take(offsets // (size * count), axis=0)

    def store(self, frame, offsets, mask, size, values, instruction, races=True):
        """As `GlobalMemory.store`, at offsets of `locate`."""
        checker = self.races if races else None
        who = frame.warp, frame.batch.epoch
        _store(self._views, checker, who, offsets, mask, size, values, instruction)
