"""MarginHead: the class centres, the margin's state, and one call into the kernels."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from fusedface.kernels import (
    CurricularFace,
    HeadOptions,
    Margin,
    MarginOutput,
    cosines,
    margin_loss,
)
from fusedface.kernels.options import head_options

# Of the class centres, as the official CurricularFace and insightface heads have it.
INITIAL_STD = 0.01


class MarginHead(nn.Module):
    """Class centres and a margin loss: embeddings (B, D) and labels (B,) to a MarginOutput.

    The class centres are `weight` (C, D), float32. What margin and weighting carry from batch to batch
    (such as t of CurricularFace) are buffers by name, updated in training mode only, saved in
    `state_dict`, and float32 whatever the head is cast to: a step of 0.01 is lost in half precision.

    Args:
        embedding_dim: D >= 1.
        num_classes: C >= 2.
        margin: one of `fusedface.kernels.MARGINS`, or `HeadOptions` with one; CurricularFace() if left out.
        device: where the class centres are made.
        options: the fields of `HeadOptions` by name, such as `backend="chunked"`.

    Raises:
        TypeError: `margin` is not a margin, or an option is unknown or of the wrong kind.
        ValueError: a size or an option is out of its range.
    """

    weight: Tensor

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: Margin | HeadOptions | None = None,
        *,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1, got {embedding_dim}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.options = head_options(CurricularFace() if margin is None else margin, options)
        self.embedding_dim, self.num_classes = embedding_dim, num_classes
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_dim, device=device))
        for name, value in self.options.initial_state().items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32, device=device))
        self.reset_parameters()

    @property
    def margin(self) -> Margin:
        """The margin of `options`."""
        return self.options.margin

    @property
    def state(self) -> dict[str, Tensor]:
        """The state by name: the buffers themselves."""
        return {name: self.get_buffer(name) for name in self.options.initial_state()}

    def reset_parameters(self) -> None:
        """Draw new class centres (their length only sets the pace of learning), and reset the state."""
        nn.init.normal_(self.weight, std=INITIAL_STD)
        for name, value in self.options.initial_state().items():
            self.get_buffer(name).fill_(value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `.to`, `.half` and the like go through: the state moves, but stays float32."""
        state = {id(buffer) for buffer in self.state.values()}

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            if id(tensor) in state and result.dtype != tensor.dtype:
                return tensor.to(result.device)
            return result

        return super()._apply(moved, recurse)

    def forward(self, embeddings: Tensor, labels: Tensor) -> MarginOutput:
        """Loss and statistics of a batch; see `margin_loss` for shapes, dtypes and errors."""
        return margin_loss(
            embeddings, self.weight, labels, self.options, state=self.state, training=self.training
        )

    @torch.no_grad()
    def cosines(self, embeddings: Tensor) -> Tensor:
        """Cosines (B, C) of embeddings (B, D) with all class centres, without margin: such as for a top-5.

        In float32, or float64 where an operand has it. It holds what `forward` is there to avoid, 4 B C
        bytes; the top-1 of a training batch is `MarginOutput.correct`.
        """
        return cosines(embeddings, self.weight)

    def extra_repr(self) -> str:
        """Sizes and options, for print(head)."""
        return f"{self.embedding_dim}, {self.num_classes}, {self.options}"
