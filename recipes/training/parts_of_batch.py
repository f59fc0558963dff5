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

from fusedface.recipes.training.rehearsal import Before, generator_states, set_generators


class PartsOfBatch:
    """Embeds batches in parts, and computes the gradients of a batch in parts.

    Args:
        network: the backbone; it may be wrapped for several processes.
        embed: computes its embeddings (b, D) of images (b, H, W, 3) uint8.
        device: where it is computed.
        num_parts: N; each batch is a multiple of it.
    """

    def __init__(
        self,
        network: nn.Module,
        embed: Callable[[Tensor], Tensor],
        device: torch.device,
        num_parts: int,
    ) -> None:
        self._network, self._embed = network, embed
        self._device, self._num_parts = device, num_parts
        self._generators: list[list[Tensor]] = []

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) of images (B, H, W, 3) uint8, as a leaf that takes a gradient."""
        self._generators = []
        embeddings = []
        with torch.no_grad():
            for part in images.chunk(self._num_parts):
                self._generators.append(generator_states(self._device))
                embeddings.append(self._embed(part))
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
                set_generators(states, self._device)
                # Processes average the sum over the parts, once.
                with self._apart(is_last=number == self._num_parts):
                    self._embed(part).backward(g)

    @contextmanager
    def _second_forwards(self) -> Iterator[None]:
        """Forwards in the block leave random generators and running statistics as they were."""
        before = Before([*self._network.buffers()], self._device)
        try:
            yield
        finally:
            before.restore()

    def _apart(self, *, is_last: bool):
        is_shared = isinstance(self._network, DistributedDataParallel)
        return self._network.no_sync() if is_shared and not is_last else nullcontext()  # pyright: ignore[reportCallIssue]
