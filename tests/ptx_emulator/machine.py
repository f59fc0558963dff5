"""Runs a kernel over its grid: many programs at once, every thread a lane of NumPy arrays.

Programs of a batch run in lockstep; where a branch takes them apart the batch is divided. Within
programs a schedule decides which warps run together and in which order:

    lockstep     all warps of a program, instruction by instruction
    serial       one warp at a time up to the next barrier, first to last
    reversed     the same, last to first
    a number     the same, in an order shuffled with this seed
"""

import random
from dataclasses import dataclass

import numpy as np

import ptx_emulator.instructions  # noqa: F401  adds the families
from ptx_emulator import divergence
from ptx_emulator.arithmetic import dtype_of
from ptx_emulator.building import Builder
from ptx_emulator.memory import GlobalMemory, SharedMemory
from ptx_emulator.ptx import Kernel, PtxError, parse

WARP = 32
BANKS = {"b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "pred": np.bool_}
KINDS = {
    "u16": "b16", "s16": "b16", "f16": "b16", "u32": "b32", "s32": "b32", "f32": "b32",
    "u64": "b64", "s64": "b64", "f64": "b64", "pred": "pred",
}  # fmt: skip


@dataclass
class Options:
    """How to run.

    Attributes:
        schedule: see this module.
        early_copies: asynchronous copies and products take effect when they are issued, not as late as
            a wait allows: what is wrong either way shows in one of the two.
        check_races: raise RaceError for unordered accesses to shared or global memory.
        truncate: matrix products cut bits off as tensor cores do (`tensor_cores.BLOCKS`).
        max_lanes: threads that run at once.
    """

    schedule: str | int = "lockstep"
    early_copies: bool = False
    check_races: bool = False
    truncate: bool = False
    max_lanes: int = 8192


class Program:
    """A kernel ready to run."""

    def __init__(self, text: str) -> None:
        self.kernel: Kernel = parse(text)
        builder = Builder(self.kernel)
        self.code = [builder.build(instruction) for instruction in self.kernel.instructions]
        self.bank_sizes = builder.bank_sizes
        self.whole_groups = self.kernel.uses("wgmma")  # four warps, which issue products together
        self.updates_in_place = self.kernel.uses("atom") or self.kernel.uses("red")

    def run(
        self,
        grid: tuple[int, int, int],
        num_warps: int,
        arguments: dict[str, np.generic],
        memory: GlobalMemory,
        shared: int,
        options: Options,
        capability: int,
    ) -> list[int]:
        """All programs of a grid; how many warps executed each instruction.

        Args:
            grid: programs along each axis.
            num_warps: of a program.
            arguments: by the names of the kernel's parameters.
            memory: what they point to.
            shared: bytes of shared memory of a program.
            options: how to run.
            capability: as in `driver.SHARED_MEMORY`.
        """
        programs = np.arange(grid[0] * grid[1] * grid[2], dtype=np.int64)
        order = random.Random(options.schedule) if isinstance(options.schedule, int) else None
        if order:
            order.shuffle(programs)
        size = max(1, options.max_lanes // (num_warps * WARP))
        counts = [0] * len(self.code)
        launch = Launch(
            self, grid, num_warps, arguments, memory, shared, options, capability, order, counts
        )
        with np.errstate(all="ignore"):
            for first in range(0, len(programs), size):
                batches = [Batch.fresh(launch, programs[first : first + size])]
                while batches:
                    batches.extend(batches.pop().run())
        return counts


@dataclass
class Launch:
    """What all batches share."""

    program: Program
    grid: tuple[int, int, int]
    num_warps: int
    arguments: dict[str, np.generic]
    memory: GlobalMemory
    shared_size: int
    options: Options
    capability: int
    order: random.Random | None
    counts: list[int]


class DivergedError(Exception):
    """A branch that only some lanes of a frame take."""

    def __init__(self, taken: np.ndarray) -> None:
        super().__init__()
        self.taken = taken


@dataclass
class Barrier:
    """What a frame waits for; `threads` is 0 for all of the program."""

    index: int
    threads: int


@dataclass
class Retry:
    """A frame has to wait for `barrier` and tries again once the number of events is another."""

    num_events: int
    barrier: object


EXIT = object()


class Batch:
    """Programs whose corresponding warps are always at the same instruction.

    Lanes are ordered (warp, program, thread of the warp).
    """

    def __init__(self, launch: Launch, banks, places, shared: SharedMemory) -> None:
        self.launch, self.banks, self.places, self.shared = launch, banks, places, shared
        self.num_programs = len(places["tid"]) // (launch.num_warps * WARP)
        self.epoch = 0
        self.frames: list[Frame] = []

    @classmethod
    def fresh(cls, launch: Launch, programs: np.ndarray) -> "Batch":
        num = len(programs)
        lanes = launch.num_warps * num * WARP
        banks = {}
        for bank, dtype in BANKS.items():
            array = np.zeros((launch.program.bank_sizes[bank], lanes), dtype)
            array.view(np.uint8).fill(1 if bank == "pred" else 0xFF)
            banks[bank] = array
        shape = (launch.num_warps, num, WARP)
        warp = np.broadcast_to(np.arange(launch.num_warps)[:, None, None], shape).ravel()
        lane = np.broadcast_to(np.arange(WARP), shape).ravel()
        program = np.broadcast_to(np.arange(num)[:, None], shape).ravel()
        shared = SharedMemory(num, launch.shared_size, launch.options.check_races)
        ids = programs[program]
        width, height, _ = launch.grid
        places = {
            "tid": (warp * WARP + lane).astype(np.uint32), "laneid": lane.astype(np.uint32),
            "warp": warp.astype(np.int16), "shared_base": program * shared.stride,
            "program": ids, "ctaid.x": (ids % width).astype(np.uint32),
            "ctaid.y": (ids // width % height).astype(np.uint32),
            "ctaid.z": (ids // (width * height)).astype(np.uint32),
        }  # fmt: skip
        batch = cls(launch, banks, places, shared)
        step = launch.num_warps
        if launch.options.schedule != "lockstep":
            step = 4 if launch.program.whole_groups else 1
        batch.frames = [
            Frame(batch, first, first + step) for first in range(0, launch.num_warps, step)
        ]
        return batch

    def run(self) -> "list[Batch]":
        """To the end, or to where its programs part: the batches that are left to run."""
        while live := [frame for frame in self.frames if not frame.done]:
            ready = [frame for frame in live if frame.is_ready()]
            if not ready:
                self._release(live)
                continue
            frame = self._pick(ready)
            try:
                frame.run()
            except DivergedError as diverged:
                taken = diverged.taken.reshape(-1, self.num_programs, WARP)
                if (taken != taken[:, :, :1]).any():
                    divergence.go_both_ways(frame, diverged.taken.reshape(-1, WARP))
                    continue
                by_warp = taken[:, :, 0]
                if (by_warp == by_warp[:1]).all():
                    return [self._part(by_warp[0]), self._part(~by_warp[0])]
                self.frames.remove(frame)
                self.frames.extend(frame.divided())
        self._check_nothing_left()
        return []

    def _check_nothing_left(self) -> None:
        own = set(np.unique(self.places["shared_base"]).tolist())
        for byte, barrier in self.shared.barriers.items():
            if barrier.transfers and byte - byte % self.shared.stride in own:
                name = self.launch.program.kernel.name
                raise PtxError(f"{barrier}, and {name} is at its end")

    def _pick(self, ready: "list[Frame]") -> "Frame":
        if self.launch.order:
            return self.launch.order.choice(ready)
        return ready[-1 if self.launch.options.schedule == "reversed" else 0]

    def _release(self, live: "list[Frame]") -> None:
        stopped = [frame for frame in live if isinstance(frame.waiting, Barrier)]
        for index in {frame.waiting.index for frame in stopped}:
            waiting = [frame for frame in stopped if frame.waiting.index == index]
            arrived = sum(frame.num_warps for frame in waiting) * WARP
            expected = waiting[0].waiting.threads or sum(f.num_warps for f in live) * WARP
            if arrived >= expected:
                self.epoch += 1
                for frame in waiting:
                    frame.waiting = None
                return
        lacking = [str(f.waiting.barrier) for f in live if isinstance(f.waiting, Retry)]
        reasons = "".join(f"; {reason}" for reason in dict.fromkeys(lacking))
        raise PtxError(f"warps of {self.launch.program.kernel.name} wait for ever{reasons}")

    def _part(self, chosen: np.ndarray) -> "Batch":
        """The programs `chosen`, from where they are."""
        lanes = np.flatnonzero(
            np.broadcast_to(chosen[:, None], (self.launch.num_warps, len(chosen), WARP)).ravel()
        )
        banks = {bank: array[:, lanes] for bank, array in self.banks.items()}
        places = {name: place[lanes] for name, place in self.places.items()}
        part = Batch(self.launch, banks, places, self.shared)
        part.epoch = self.epoch
        inside = np.tile(np.repeat(chosen, WARP), self.launch.num_warps)
        for frame in self.frames:
            copy = Frame(part, frame.first_warp, frame.last_warp)
            copy.take_state(frame, inside[frame.lanes])
            part.frames.append(copy)
        return part


class Frame:
    """Warps [first, last) of all programs of a batch, with views of their registers."""

    def __init__(self, batch: Batch, first: int, last: int) -> None:
        width = batch.num_programs * WARP
        self.batch, self.launch = batch, batch.launch
        self.first_warp, self.last_warp = first, last
        self.lanes = slice(first * width, last * width)
        for kind, bank in KINDS.items():
            setattr(self, kind, batch.banks[bank].view(dtype_of(kind))[:, self.lanes])
        self.special = {name: place[self.lanes] for name, place in batch.places.items()}
        self.tid, self.warp = self.special["tid"], self.special["warp"]
        self.program = self.special["program"]
        self.shared_base = self.special["shared_base"]
        self.shared, self.memory = batch.shared, batch.launch.memory
        self.num_lanes = (last - first) * width
        self.num_warps = last - first
        self.pc, self.done, self.waiting = 0, False, None
        # Asynchronous work: `pending` kinds of lists of groups, the last of which is still open.
        self.pending: dict[str, list[list]] = {"copies": [[]], "products": [[]], "boxes": [[]]}

    def is_ready(self) -> bool:
        """Whether it can go on, or try to."""
        if isinstance(self.waiting, Retry):
            return self.waiting.num_events != self.shared.num_events
        return self.waiting is None

    def run(self) -> None:
        """Up to a barrier or the end."""
        code, counts, pc = self.launch.program.code, self.launch.counts, self.pc
        self.waiting = None
        num = self.num_lanes // WARP
        instructions = self.launch.program.kernel.instructions
        try:
            while True:
                counts[pc] += num
                result = code[pc](self)
                if result is None:
                    pc += 1
                elif type(result) is int:
                    pc = result
                elif result is EXIT:
                    self.done = True
                    return
                elif type(result) is Retry:
                    counts[pc] -= num
                    self.pc, self.waiting = pc, result
                    return
                else:
                    self.pc, self.waiting = pc + 1, result
                    return
        except DivergedError:
            counts[pc] -= num
            self.pc = pc
            raise
        except PtxError:
            raise
        except Exception as error:
            raise PtxError(f"{type(error).__name__}: {error} in {instructions[pc]}") from error

    def divided(self) -> "list[Frame]":
        """A frame for each warp (each group of four where products need it)."""
        step = 4 if self.launch.program.whole_groups else 1
        if self.num_warps <= step:
            at = self.launch.program.kernel.instructions[self.pc]
            raise PtxError(f"a branch divides a group of warps: {at}")
        frames = []
        for first in range(self.first_warp, self.last_warp, step):
            frame = Frame(self.batch, first, first + step)
            begin = frame.lanes.start - self.lanes.start
            frame.take_state(self, slice(begin, begin + frame.num_lanes))
            frames.append(frame)
        return frames

    def take_state(self, other: "Frame", lanes) -> None:
        """Where `other` is, with its asynchronous work of `lanes`."""
        self.pc, self.done, self.waiting = other.pc, other.done, other.waiting
        self.pending = {
            name: [[work.of(lanes) for work in group] for group in groups]
            for name, groups in other.pending.items()
        }

    def add_pending(self, name: str, work) -> None:
        """Asynchronous work, done now or when it is waited for."""
        if self.launch.options.early_copies:
            work.finish(self)
        else:
            self.pending[name][-1].append(work)

    def commit(self, name: str) -> None:
        """Close the open group."""
        self.pending[name].append([])

    def wait(self, name: str, still_pending: int) -> None:
        """Do all closed groups but the last `still_pending`."""
        groups = self.pending[name]
        while len(groups) - 1 > still_pending:
            for work in groups.pop(0):
                work.finish(self)
