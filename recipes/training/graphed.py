"""train.cuda_graph: whole steps from a CUDA graph, so that the host starts one thing and not hundreds.

    steps 1 to WARM_UP      by themselves, on a stream of their own: all kernels are compiled and chosen
    the next one            twice, from the same state: by itself, and captured and replayed; then compared
    all after that          a copy of the batch to where the graph reads it, and a replay

This has not run on a GPU yet (docs/training.md).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from fusedface.data import FaceBatch
from fusedface.recipes.training.feed import Feed
from fusedface.recipes.training.recorder import Made, Recorder
from fusedface.recipes.training.rehearsal import LARGEST_DIFFERENCE, Before

WARM_UP = 3


Step = Callable[[FaceBatch], Made]


class GraphedStep:
    """Makes steps from a graph, if the first one agrees with the same step by itself.

    Args:
        step: makes a step on a batch of the device, without reading a value.
        state: the tensors that a step changes.
        recorder: records and replays.
        device: where steps are computed.
        dtype: of the backbone's products.
        note: called with a line for the user.
        prepare: called before a step is recorded, and before it is repeated.

    Attributes:
        is_on: whether steps may come from a graph; False for good once a check has failed.
    """

    def __init__(
        self,
        step: Step,
        state: Callable[[], Iterable[Tensor]],
        recorder: Recorder,
        device: torch.device,
        dtype: torch.dtype,
        note: Callable[[str], None],
        prepare: Callable[[], None],
    ) -> None:
        self._step, self._state, self._recorder, self._prepare = step, state, recorder, prepare
        self._device, self._dtype, self._note = device, dtype, note
        self._feed = Feed(device)
        self._key: Any = None
        self._num_made = 0
        self._graph: tuple[FaceBatch, Callable[[], None], Made] | None = None
        self.is_on = True

    def __call__(self, batch: FaceBatch, key: object) -> Made:
        """Make a step.

        Args:
            batch: on the host.
            key: anything else that decides which kernels a step starts, such as the margin.
        """
        moved = self._feed(batch)
        if (found := (batch.images.shape, key)) != self._key:
            self._key, self._num_made, self._graph = found, 0, None
        self._num_made += 1
        if self._num_made <= WARM_UP:
            return self._recorder.warm_up(lambda: self._step(moved))
        if self._graph is None:
            return self._tried(moved)
        static, replay, made = self._graph
        for there, new in zip(static.tensors(), moved.tensors(), strict=True):
            there.copy_(new)
        self._prepare()
        replay()
        return Made(made.row.clone(), made.embeddings)

    def _tried(self, batch: FaceBatch) -> Made:
        """The step by a new graph, or by itself if something is wrong with the graph."""
        before = None
        try:
            before = Before([*self._state()], self._device)  # takes the memory of all class centres
            tried = self._recorded(batch, before)
        except RuntimeError as error:  # also of too little memory
            lines = str(error).strip().splitlines() or [""]
            tried = f"{type(error).__name__}: {lines[0][:200]}"
        if isinstance(tried, Made):
            return tried
        self._note(f"train.cuda_graph: off, the recorded step did not pass its check: {tried}")
        self.is_on = False
        if before is not None:
            before.restore()
            before = None  # the step may need its memory
        return self._step(batch)

    def _recorded(self, batch: FaceBatch, before: Before) -> Made | str:
        """The step by a new graph, which is kept; or what is wrong with the graph."""
        state = [*self._state()]
        self._step(batch)
        expected = [tensor.detach().clone() for tensor in state]
        before.restore()
        self._prepare()
        replay, made = self._recorder.record(lambda: self._step(batch))
        self._prepare()
        replay()
        apart = before.difference(state, expected)
        if not apart <= LARGEST_DIFFERENCE[self._dtype]:
            return f"what it changes differs by {apart:.2g} of its length"
        self._graph = batch, replay, made
        self._note(f"train.cuda_graph: on; its first step differs by {apart:.1g}")
        return Made(made.row.clone(), made.embeddings)
