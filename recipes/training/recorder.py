"""What records the work of a device, to repeat it."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Made(NamedTuple):
    """What a step leaves besides changed weights."""

    row: Tensor
    """Its figures, for the meter."""
    embeddings: Tensor
    """(B, D)."""


class Recorder(Protocol):
    """Records the work of a device; `CudaRecorder`, or what a test puts in its place."""

    def warm_up(self, call: Callable[[], Made]) -> Made:
        """The result of a call, on another stream than the current one."""
        ...

    def record(self, call: Callable[[], Made]) -> tuple[Callable[[], None], Made]:
        """What repeats the work of a call, which is not done yet, and its result, which that overwrites."""
        ...


class CudaRecorder:
    """Records the kernels that a call starts on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def warm_up(self, call: Callable[[], Made]) -> Made:
        """See `Recorder`."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            made = call()
        current.wait_stream(self._stream)
        return made

    def record(self, call: Callable[[], Made]) -> tuple[Callable[[], None], Made]:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        # Other threads, which pin batches, may go on meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            made = call()
        return graph.replay, made
