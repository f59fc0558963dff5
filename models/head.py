"""MarginHead: the class centres, the margin's state, and one call into the kernels."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from fusedface.kernels import (
    CurricularFace,
    Group,
    HeadOptions,
    Margin,
    MarginOutput,
    cosines,
    margin_loss,
)
from fusedface.kernels.dispatch import check_updates
from fusedface.kernels.options import head_options
from fusedface.models.class_shard import ClassShard, draw_rows
from fusedface.models.fused_update import FusedUpdate

# Of the class centres, as the official CurricularFace and insightface heads have it.
INITIAL_STD = 0.01


class MarginHead(nn.Module):
    """Class centres and a margin loss: maps embeddings (B, D) and labels (B,) to a MarginOutput.

    The class centres are `weight` (C, D), float32. The state of margin and weighting (such as t of
    CurricularFace) is in buffers by name. They are updated in training mode only and saved in
    `state_dict`. They stay float32 if the head is cast, because half precision would lose a step of
    0.01.

    Args:
        embedding_dim: D >= 1.
        num_classes: C >= 2.
        margin: one of `fusedface.kernels.MARGINS`, or `HeadOptions` with one; CurricularFace() if left out.
        device: on which the class centres are made.
        process_group: processes that share the class centres, "world" for all that torchrun has
            started. Each process makes its own head, with the same arguments. `weight` is then this
            rank's (len(head.classes), D). `forward` takes this rank's rows of the batch and returns
            the output of the whole batch. Put `DistributedDataParallel` around the backbone, but not
            around the head (docs/scaling.md).
        options: the fields of `HeadOptions` by name, such as `backend="chunked"`.

    Raises:
        TypeError: `margin` is not a margin, or an option is unknown or of the wrong kind.
        ValueError: a size or an option is out of its range, the program was not started with torchrun,
            or the ranks were given different arguments.
    """

    weight: Tensor
    classes: range
    """The classes whose centres this process holds: all of them without a process group."""

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: Margin | HeadOptions | None = None,
        *,
        device: torch.device | str | None = None,
        process_group: Group | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1, got {embedding_dim}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.options = head_options(CurricularFace() if margin is None else margin, options)
        self.embedding_dim, self.num_classes = embedding_dim, num_classes
        self.shard = None if process_group is None else ClassShard(process_group, num_classes)
        if self.shard is not None:
            self.shard.check_same((embedding_dim, num_classes, str(self.options)))
        self.classes = range(num_classes) if self.shard is None else self.shard.classes
        self.weight = nn.Parameter(torch.empty(len(self.classes), embedding_dim, device=device))
        self.fused: FusedUpdate | None = None
        self._register_state()
        self.reset_parameters()

    @property
    def margin(self) -> Margin:
        """The margin of `options`."""
        return self.options.margin

    def set_margin(self, margin: Margin) -> None:
        """Change the margin between two steps. State with a known name is kept; new state is initial.

        State is never dropped: `state_dict` has that of every margin that the head has had.
        """
        self.options = replace(self.options, margin=margin)
        self._register_state()

    def _register_state(self) -> None:
        """Add a buffer for each number of the state that has none yet."""
        for name, value in self.options.initial_state().items():
            if name not in self._buffers:
                first = torch.tensor(value, dtype=torch.float32, device=self.weight.device)
                self.register_buffer(name, first)

    @property
    def state(self) -> dict[str, Tensor]:
        """The state by name: the buffers themselves."""
        buffers: Any = self._buffers  # faster than `get_buffer`, in every step
        return {name: buffers[name] for name in self.options.initial_state()}

    def reset_parameters(self) -> None:
        """Draw new class centres (their length only sets the pace of learning), and reset the state."""
        if self.shard is None:
            nn.init.normal_(self.weight, std=INITIAL_STD)
        else:
            draw_rows(self.weight.detach(), self.classes, self.num_classes, INITIAL_STD)
        for name, value in self.options.initial_state().items():
            self.get_buffer(name).fill_(value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Called by `.to`, `.half` and the like: the state moves, but stays float32."""
        state = {id(buffer) for buffer in self.buffers()}

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            if id(tensor) in state and result.dtype != tensor.dtype:
                return tensor.to(result.device)
            return result

        return super()._apply(moved, recurse)

    def fuse(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        scaler: torch.amp.GradScaler | None = None,
        momentum_dtype: torch.dtype | None = None,
        keeps_unit_rows: bool | None = None,
    ) -> FusedUpdate:
        """Have each backward in training mode update the class centres, as `optimizer` would.

        The class centres then get no gradient, and `optimizer.step()` skips them. Every backward is a
        step, so gradients of several batches cannot be accumulated (docs/scaling.md). With `sample_rate`
        below 1, each backward moves only the classes that were drawn.

        Args:
            optimizer: torch.optim.SGD with the class centres in it, whose settings and momentum are used.
            scaler: the gradient scaler of the loss, if there is one.
            momentum_dtype: such as bfloat16, for half the memory; that of the class centres if left out.
            keeps_unit_rows: whether the Triton kernels keep a second copy of the class centres, normalised,
                from the forward to the backward, or make it chunk by chunk in both, for which they read the
                class centres once more. Left out, they keep it where it takes up to half of the GPU's
                memory, together with the class centres and the momentum.

        Returns:
            The `FusedUpdate`, with a `skip` flag on the device. It is also `head.fused`; set that to
            None to end the fused update.

        Raises:
            TypeError, ValueError: as `FusedUpdate`; or the backend cannot do it.
        """
        check_updates(self.options.backend)
        self.fused = FusedUpdate(optimizer, self.weight, scaler, momentum_dtype, keeps_unit_rows)
        return self.fused

    def forward(self, embeddings: Tensor, labels: Tensor) -> MarginOutput:
        """Loss and statistics of a batch; see `margin_loss` for shapes, dtypes and errors."""
        # Its random number is drawn also where a checkpointed forward runs without gradients, so that the
        # second forward finds torch's generator in the same state.
        step = self.fused.next() if self.fused is not None and self.training else None
        return margin_loss(
            embeddings,
            self.weight,
            labels,
            self.options,
            state=self.state,
            training=self.training,
            process_group=None if self.shard is None else self.shard.group,
            update=step if torch.is_grad_enabled() else None,
        )

    def full_state_dict(self) -> dict[str, Tensor]:
        """A copy of the state on the CPU, with the class centres of all ranks.

        With a process group, `state_dict` has the rank's own rows. This gathers those of all ranks on
        rank 0 of the group, one rank at a time, and is empty on the other ranks. Every rank has to
        call it. A head on any number of ranks loads both.
        """
        state = {
            name: value.detach().to("cpu", copy=True) for name, value in self.state_dict().items()
        }
        if self.shard is None:
            return state
        weight = self.shard.collect(self.weight.detach())
        return {} if weight is None else state | {"weight": weight}

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any, **options: Any
    ) -> None:
        """Called by `load_state_dict`: take this rank's rows if the file has all class centres."""
        key = prefix + "weight"
        weight = state_dict.get(key)
        if self.shard is not None and isinstance(weight, Tensor) and weight.ndim == 2:
            rows = self.shard.rows_of(weight, key)
            # With `assign=True` the rows become the weight: a view would keep all class centres.
            state_dict = state_dict | {key: rows.clone() if rows is not weight else rows}
        super()._load_from_state_dict(state_dict, prefix, *arguments, **options)

    @torch.no_grad()
    def cosines(self, embeddings: Tensor) -> Tensor:
        """Cosines (B, C) of embeddings (B, D) with all class centres, without margin; for a top-5, say.

        The dtype is float32, or float64 if an operand has it. With a process group the class centres
        are this rank's own: (B, len(head.classes)). The result takes 4 B C bytes, which `forward`
        avoids; the top-1 of a training batch is `MarginOutput.correct`.
        """
        return cosines(embeddings, self.weight)

    def extra_repr(self) -> str:
        """Sizes and options, for print(head)."""
        own = "" if self.shard is None else f", {self.shard}"
        return f"{self.embedding_dim}, {self.num_classes}, {self.options}{own}"
