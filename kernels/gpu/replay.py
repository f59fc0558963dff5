"""Repeat the launches of a call with new tensors, so that the host prepares them only once.

A training step does the same again and again. Its allocations, and which compiled kernel gets which of
its tensors and numbers, depend only on shapes, strides, dtypes and constants: the signature of a call. The
first call with a signature runs as usual and is recorded. Later calls only allocate and launch, which is a
fraction of the work in Python. A call that does anything else is never repeated.
"""

import operator
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fusedface.kernels.gpu import choice, launch, layout

MOST_SIGNATURES = 1024  # recordings that are kept
ALIGNMENT = 512  # bytes, of what lies in a workspace: that of PyTorch's allocator
ALLOCATIONS = ("empty", "empty_like", "new_empty")
VIEWS = ("select", "slice", "unsqueeze", "view", "alias", "detach")


def run(
    signature: Hashable, compute: Callable[..., tuple[Tensor, ...]], *inputs: Tensor
) -> tuple[Tensor, ...]:
    """`compute(*inputs)`, or its recorded launches on new inputs.

    Args:
        signature: all that decides what `compute` allocates and starts, including the device.
        compute: starts kernels with `launch.start` on the inputs and on memory that it allocates.
        inputs: with memory aligned to 16 bytes, unless the signature says otherwise.
    """
    decided = choice.decided
    if decided.watch is not None:
        return compute(*inputs)
    found = decided.replays.get(signature, False)
    if found:
        return found(*inputs)
    if found is None:
        return compute(*inputs)
    if len(decided.replays) >= MOST_SIGNATURES:
        decided.replays.clear()
    num_tiles = len(decided.tiles)
    with _Recording(inputs) as recording:
        results = compute(*inputs)
    if len(decided.tiles) == num_tiles:  # else there are allocations of refused tile shapes
        decided.replays[signature] = recording.replay(results)
    return results


class _Launch(NamedTuple):
    """One launch: its compiled kernel, and its arguments; `pick` selects those that are memory."""

    kernel: Any
    grid: int
    pick: Callable[[list[Any]], tuple[Any, ...]]
    numbers: tuple[object, ...]


class _Part(NamedTuple):
    """Memory that a kernel is given: from `offset`, in bytes, of a tensor."""

    place: int
    offset: int
    shape: torch.Size
    dtype: torch.dtype


class _Memory(NamedTuple):
    """What a call allocates: its results, and one workspace for everything that it does not return."""

    results: list[tuple[torch.Size, torch.dtype]]
    workspace: int  # bytes
    parts: list[_Part]  # that kernels are given


class _Replay:
    """Repeats a call; see `run`."""

    def __init__(
        self,
        memory: _Memory,
        launches: list[_Launch],
        results: Callable[[list[Tensor]], tuple[Tensor, ...]],
    ) -> None:
        self._memory, self._launches, self._results = memory, launches, results
        self._offsets = [(part.place, part.offset) for part in memory.parts]
        # What `CompiledKernel.run` takes before the arguments: looked up once, it costs a launch nothing.
        self._starts = [
            (launch.kernel.run, launch.grid, launch.kernel.function, launch.kernel.packed_metadata)
            for launch in launches
        ]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        tensors = [*inputs]
        new = inputs[0].new_empty
        tensors += [new(size, dtype=dtype) for size, dtype in self._memory.results]
        if self._memory.workspace:
            tensors.append(new(self._memory.workspace, dtype=torch.uint8))
        with launch.on_device(inputs[0].device):
            driver: Any = triton.runtime.driver.active
            stream = driver.get_current_stream(driver.get_current_device())
            if launch.takes_addresses:
                bases = [tensor.data_ptr() for tensor in tensors]
                given = [bases[place] + offset for place, offset in self._offsets]
            else:
                given = [_view(tensors[part.place], part) for part in self._memory.parts]
            self._start(given, stream)
        return self._results(tensors)

    def _start(self, given: list[Any], stream: int) -> None:
        hooks: Any = triton.knobs.runtime  # pyright: ignore[reportAttributeAccessIssue]
        if not (_calls(hooks.launch_enter_hook) or _calls(hooks.launch_exit_hook)):
            for (run, grid, function, packed), (_, _, pick, numbers) in zip(
                self._starts, self._launches, strict=True
            ):
                run(grid, 1, 1, stream, function, packed, None, None, None, *pick(given), *numbers)
        else:  # somebody profiles
            for kernel, grid, pick, numbers in self._launches:
                kernel[(grid, 1, 1)](*pick(given), *numbers, stream=stream)


def _calls(hook: Any) -> bool:
    """Whether a hook of Triton's does anything: it is a list of functions, or in some versions None."""
    return bool(getattr(hook, "calls", hook))


def _view(tensor: Tensor, part: _Part) -> Tensor:
    if tensor.shape == part.shape and tensor.dtype == part.dtype:
        return tensor
    num_bytes = part.shape.numel() * part.dtype.itemsize
    return tensor[part.offset : part.offset + num_bytes].view(part.dtype).view(part.shape)


class _Recording(TorchDispatchMode):
    """Records what a call allocates and starts."""

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self._tensors, self._num_inputs = list(inputs), len(inputs)
        self._noted: list[tuple[Any, int, tuple[Any, ...], tuple[object, ...]]] = []
        self._is_plain = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ALLOCATIONS:
            self._tensors.append(result)  # held, so that no two have the same memory
            self._is_plain &= result.is_contiguous()
        elif name not in VIEWS:
            self._is_plain = False
        return result

    def __enter__(self) -> "_Recording":
        launch.observer.note = lambda *launched: self._noted.append(launched)
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        launch.observer.note = None
        super().__exit__(*raised)

    def replay(self, results: tuple[Tensor, ...]) -> _Replay | None:
        """A function that repeats the call; None if it did more than allocate and start."""
        if not self._is_plain or not self._noted:
            return None
        try:
            returned = [self._place(result, whole=True) for result in results]
            noted = [self._arguments(*noted) for noted in self._noted]
        except LookupError:  # a tensor that is part of another
            return None
        fresh = range(self._num_inputs, len(self._tensors))
        kept = [place for place in fresh if place in returned]
        moved = {place: self._num_inputs + i for i, place in enumerate(kept)}
        moved |= {place: place for place in range(self._num_inputs)}
        workspace, parts, size = self._num_inputs + len(kept), [], 0
        for place, tensor in enumerate(self._tensors):
            offset = 0 if place in moved else size
            parts.append(_Part(moved.get(place, workspace), offset, tensor.shape, tensor.dtype))
            if place not in moved:
                size += layout.ceil_div(tensor.nbytes, ALIGNMENT) * ALIGNMENT
        memory = _Memory(
            [(self._tensors[place].shape, self._tensors[place].dtype) for place in kept],
            size,
            parts,
        )
        launches = [
            _Launch(kernel, grid, _picker(places), numbers)
            for kernel, grid, places, numbers in noted
        ]
        return _Replay(memory, launches, _picker([moved[place] for place in returned]))

    def _arguments(
        self, compiled: Any, grid: int, args: tuple[Any, ...], constants: tuple[object, ...]
    ) -> tuple[Any, int, list[int], tuple[object, ...]]:
        """A launch with the places of its tensors."""
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        numbers = args[len(tensors) :]
        if any(isinstance(arg, Tensor) for arg in numbers):
            raise LookupError("numbers before tensors")
        return compiled, grid, [self._place(tensor) for tensor in tensors], numbers + constants

    def _place(self, tensor: Tensor, whole: bool = False) -> int:
        """The place of a known tensor with the memory of this one; `whole`: with the same shape, too."""
        for place, candidate in enumerate(self._tensors):
            if candidate is tensor or (
                candidate.dtype == tensor.dtype
                and candidate.data_ptr() == tensor.data_ptr()
                and (candidate.shape == tensor.shape or not whole)
            ):
                return place
        raise LookupError("not an input and not allocated")


def _picker(places: list[int]) -> Callable[[list[Any]], tuple[Any, ...]]:
    if len(places) == 1:
        return lambda given: (given[places[0]],)
    return operator.itemgetter(*places)
