"""The backbone on a batch in N parts: the loss of the whole batch, with the memory of a part.

    x_p = f(images of part p)                      for each part, without a graph
    g   = dL / dx at x = (x_1 ... x_N)             teacher and head, once, on the whole batch
    dL / dw = sum over p of (dx_p / dw)^T g_p      for each part: forward again, then backward

This is GradCache (Gao et al., 2021, arXiv:2101.06983). Loss and gradient are those of the whole batch, and
the states of a margin (t, AdaFace's averages) change once in a step. It costs a second forward.
Batch normalisation is the exception: it normalises each part by the part's own statistics, and its running
statistics change once for each part.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fusedface.recipes.training.precision import Precision


class PartsOfBatch:
    """Embeds batches in parts, and computes the gradients of a batch in parts.

    Args:
        network: embeds (b, 3, H, W); it may be wrapped for several processes.
        inputs: makes its input of images (b, H, W, 3) uint8.
        precision: device and dtype.
        num_parts: N; each batch is a multiple of it.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Callable[[Tensor], Tensor],
        precision: Precision,
        num_parts: int,
    ) -> None:
        self._network, self._inputs = network, inputs
        self._precision, self._num_parts = precision, num_parts
        self._generators: list[list[Tensor]] = []

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) of images (B, H, W, 3) uint8, as a leaf that takes a gradient."""
        self._generators = []
        embeddings = []
        with torch.no_grad(), self._precision.autocast():
            for part in images.chunk(self._num_parts):
                self._generators.append(self._generator_states())
                embeddings.append(self._network(self._inputs(part)))
        return torch.cat(embeddings).requires_grad_()

    def backward(self, images: Tensor, gradient: Tensor) -> None:
        """Add the gradients of the network.

        Args:
            images: those of the newest `embed`.
            gradient: dL / dx (B, D).
        """
        parts = zip(
            images.chunk(self._num_parts),
            gradient.chunk(self._num_parts),
            self._generators,
            strict=True,
        )
        with self._second_forwards():
            for number, (part, g, states) in enumerate(parts, start=1):
                self._set_generators(states)
                # Processes average the sum over the parts, once.
                with self._apart(is_last=number == self._num_parts):
                    with self._precision.autocast():
                        embeddings = self._network(self._inputs(part))
                    embeddings.backward(g)

    @contextmanager
    def _second_forwards(self) -> Iterator[None]:
        """Forwards in the block leave random generators and running statistics as they were."""
        buffers = [*self._network.buffers()]
        before, states = [buffer.clone() for buffer in buffers], self._generator_states()
        try:
            yield
        finally:
            self._set_generators(states)
            if buffers:
                torch._foreach_copy_(buffers, before)

    def _apart(self, *, is_last: bool):
        is_shared = isinstance(self._network, DistributedDataParallel)
        return self._network.no_sync() if is_shared and not is_last else nullcontext()  # pyright: ignore[reportCallIssue]

    def _generator_states(self) -> list[Tensor]:
        """Those of the CPU and of the device; reading them does not wait for the device."""
        states = [torch.get_rng_state()]
        if self._precision.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._precision.device))
        return states

    def _set_generators(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if len(states) > 1:
            torch.cuda.set_rng_state(states[1], self._precision.device)
