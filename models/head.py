"""MarginHead: the class centres, the margin's state, and one call into the kernels."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from fusedface.kernels import CurricularFace, Margin, MarginOutput, cosines, margin_loss
from fusedface.kernels.checks import Backend, Precision, Reduction, TargetGradient, check_options

INITIAL_STD = (
    0.01  # of the class centres, as the official CurricularFace and insightface heads have it
)


class MarginHead(nn.Module):
    """Class centres and a margin loss: embeddings (B, D) and labels (B,) to a MarginOutput.

    The class centres are `weight` (C, D), float32. What the margin carries from batch to batch (t of
    CurricularFace) is a buffer of its own name, updated in training mode only, saved in `state_dict`, and
    float32 whatever the head is cast to: a step of 0.01 is lost in half precision.

    Args:
        embedding_dim: D >= 1.
        num_classes: C >= 2.
        margin: one of `fusedface.kernels.MARGINS`.
        backend, precision, focal_gamma, reduction, ignore_index, target_gradient: see `margin_loss`.
        device: where the class centres are made.

    Raises:
        TypeError: `margin` is no margin.
        ValueError: a size or an option is out of its range.
    """

    weight: Tensor

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: Margin | None = None,
        *,
        backend: Backend = "auto",
        precision: Precision = "auto",
        focal_gamma: float = 0.0,
        reduction: Reduction = "mean",
        ignore_index: int = -1,
        target_gradient: TargetGradient = "exact",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        margin = CurricularFace() if margin is None else margin
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1, got {embedding_dim}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        check_options(margin, backend, precision, focal_gamma, reduction, target_gradient)
        self.embedding_dim, self.num_classes, self.margin = embedding_dim, num_classes, margin
        self.backend: Backend = backend
        self.precision: Precision = precision
        self.focal_gamma, self.ignore_index = focal_gamma, ignore_index
        self.reduction: Reduction = reduction
        self.target_gradient: TargetGradient = target_gradient
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_dim, device=device))
        for name, value in margin.initial_state().items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new class centres (their length only sets the pace of learning), and reset the state."""
        nn.init.normal_(self.weight, std=INITIAL_STD)
        for name, value in self.margin.initial_state().items():
            self.get_buffer(name).fill_(value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `.to`, `.half` and the like go through: the state moves, but stays float32."""
        state = {id(self.get_buffer(name)) for name in self.margin.initial_state()}

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            if id(tensor) in state and result.dtype != tensor.dtype:
                return tensor.to(result.device)
            return result

        return super()._apply(moved, recurse)

    def forward(self, embeddings: Tensor, labels: Tensor) -> MarginOutput:
        """Loss and statistics of a batch; see `margin_loss` for shapes, dtypes and errors."""
        return margin_loss(
            embeddings,
            self.weight,
            labels,
            self.margin,
            state={name: getattr(self, name) for name in self.margin.initial_state()},
            training=self.training,
            backend=self.backend,
            precision=self.precision,
            focal_gamma=self.focal_gamma,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            target_gradient=self.target_gradient,
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
        options = f"backend={self.backend}, precision={self.precision}"
        return f"{self.embedding_dim}, {self.num_classes}, {self.margin}, {options}"
