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
ALLOCATIONS = ("empty", "empty_like", "new_empty")
_MISSING: Any = object()
VIEWS = ("select", "slice", "split_with_sizes", "unsqueeze", "view", "alias", "detach")


def found(signature: Hashable) -> "Callable[..., tuple[Tensor, ...]] | None":
    """What repeats an earlier `run` with this signature on new inputs, if there is something."""
    decided = choice.decided
    return decided.replays.get(signature) if decided.watch is None else None


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
    known = decided.replays.get(signature, _MISSING)  # once: another thread may clear them
    if known is not _MISSING:
        return compute(*inputs) if known is None else known(*inputs)
    if len(decided.replays) >= MOST_SIGNATURES:
        decided.replays.clear()
    num_tiles = len(decided.tiles)
    with _Recording(inputs) as recording:
        results = compute(*inputs)
    if len(decided.tiles) == num_tiles:  # else there are allocations of refused tile shapes
        decided.replays[signature] = recording.replay(results)
    return results


_hooks: Any = triton.knobs.runtime  # pyright: ignore[reportAttributeAccessIssue]


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


class _Replay:
    """Repeats a call; see `run`.

    Args:
        patterns: of what the call allocates: its results, and one workspace for everything that it does not
            return.
        parts: that kernels are given; their places count the call's inputs, then what it allocates.
        launches: in order.
        results: picks those of all tensors.
    """

    def __init__(
        self,
        patterns: list[Tensor],
        parts: list[_Part],
        launches: list[_Launch],
        results: Callable[[list[Tensor]], tuple[Tensor, ...]],
    ) -> None:
        self._patterns, self._parts = patterns, parts
        self._launches, self._results = launches, results
        self._offsets = [(part.place, part.offset) for part in parts]
        # What `CompiledKernel.run` takes before the arguments: looked up once, it costs a launch nothing.
        self._starts = [
            (launch.kernel.run, launch.grid, launch.kernel.function, launch.kernel.packed_metadata,
             launch.pick, launch.numbers)
            for launch in launches
        ]  # fmt: skip

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        tensors = [*inputs, *map(torch.empty_like, self._patterns)]
        if launch.takes_addresses:
            bases = [tensor.data_ptr() for tensor in tensors]
            given = [bases[place] + offset for place, offset in self._offsets]
        else:
            given = [_view(tensors[part.place], part) for part in self._parts]
        driver: Any = triton.runtime.driver.active
        device = inputs[0].device
        if device.index in (None, driver.get_current_device()):
            self._start(given, driver)
        else:  # making a device current takes longer than a launch
            with launch.on_device(device):
                self._start(given, driver)
        return self._results(tensors)

    def _start(self, given: list[Any], driver: Any) -> None:
        stream = driver.get_current_stream(driver.get_current_device())
        if not (_calls(_hooks.launch_enter_hook) or _calls(_hooks.launch_exit_hook)):
            for run, grid, function, packed, pick, numbers in self._starts:
                run(grid, 1, 1, stream, function, packed, None, None, None, *pick(given), *numbers)
        else:  # somebody profiles
            for kernel, grid, pick, numbers in self._launches:
                kernel[(grid, 1, 1)](*pick(given), *numbers, stream=stream)


def _calls(hook: Any) -> bool:
    """Whether a hook of Triton's does anything: it is a list of functions, or in some versions None."""
    return bool(getattr(hook, "calls", hook))


def _pattern(tensor: Tensor) -> Tensor:
    """A tensor for `empty_like`, which takes the host less than a shape and a dtype; of one number."""
    return tensor.new_empty(()).expand(tensor.shape)


def _view(tensor: Tensor, part: _Part) -> Tensor:
    if tensor.shape == part.shape and tensor.dtype == part.dtype:
        return tensor
    if not part.shape.numel():
        return tensor.new_empty(part.shape, dtype=part.dtype)
    num_bytes = part.shape.numel() * part.dtype.itemsize
    whole = tensor.view(-1).view(torch.uint8)
    return whole[part.offset : part.offset + num_bytes].view(part.dtype).view(part.shape)


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
        num = self._num_inputs
        try:
            returned = [self._place_of_result(result) for result in results]
            noted = [self._arguments(*noted) for noted in self._noted]
        except LookupError:  # memory of something else
            return None
        kept = [place for place in range(num, len(self._tensors)) if place in returned]
        moved = {place: (place, 0) for place in range(num)}
        moved |= {place: (num + i, 0) for i, place in enumerate(kept)}
        size = 0
        for place, tensor in enumerate(self._tensors):
            if place not in moved:
                moved[place] = (num + len(kept), size)
                size += layout.aligned_bytes(tensor.shape, tensor.dtype)
        patterns = [_pattern(self._tensors[place]) for place in kept]
        if size:
            patterns.append(_pattern(self._tensors[0].new_empty(size, dtype=torch.uint8)))
        parts: dict[_Part, int] = {}
        launches = []
        for kernel, grid, given, numbers in noted:
            places = []
            for old in given:
                place, begin = moved[old.place]
                part = old._replace(place=place, offset=begin + old.offset)
                places.append(parts.setdefault(part, len(parts)))
            launches.append(_Launch(kernel, grid, _picker(places), numbers))
        return _Replay(
            patterns, list(parts), launches, _picker([moved[place][0] for place in returned])
        )

    def _arguments(
        self, compiled: Any, grid: int, args: tuple[Any, ...], constants: tuple[object, ...]
    ) -> tuple[Any, int, list[_Part], tuple[object, ...]]:
        """A launch with the memory of its tensors."""
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        numbers = args[len(tensors) :]
        if any(isinstance(arg, Tensor) for arg in numbers):
            raise LookupError("numbers before tensors")
        return compiled, grid, [self._part(tensor) for tensor in tensors], numbers + constants

    def _part(self, tensor: Tensor) -> _Part:
        """The memory of a tensor within what is known; one without numbers takes any."""
        begin, known = tensor.data_ptr(), self._tensors
        places = [place for place, candidate in enumerate(known) if candidate is tensor]
        if not places and not tensor.numel():
            return _Part(0, 0, tensor.shape, tensor.dtype)
        if not places:
            places = [
                place
                for place, candidate in enumerate(known)
                if 0 <= begin - candidate.data_ptr() <= candidate.nbytes - tensor.nbytes
            ]
        if len(places) != 1:  # of two inputs with the same memory, the next call may have only one
            raise LookupError("not an input and not allocated")
        offset = begin - known[places[0]].data_ptr()
        return _Part(places[0], offset, tensor.shape, tensor.dtype)

    def _place_of_result(self, result: Tensor) -> int:
        for place, candidate in enumerate(self._tensors):
            if candidate is result or (
                candidate.dtype == result.dtype
                and candidate.data_ptr() == result.data_ptr()
                and candidate.shape == result.shape
            ):
                return place
        raise LookupError("not an input and not allocated")


def _picker(places: list[int]) -> Callable[[list[Any]], tuple[Any, ...]]:
    if len(places) == 1:
        return lambda given: (given[places[0]],)
    return operator.itemgetter(*places)
