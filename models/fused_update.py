"""SGD on the class centres inside the backward, with the settings and state of an ordinary optimiser."""

from typing import Any

import torch
from torch import Tensor

from fusedface.kernels import CentreUpdate
from fusedface.kernels.interface.update import check_dtype
from fusedface.kernels.sampling import LARGEST

BUFFER = "momentum_buffer"  # as torch.optim.SGD calls it


class FusedUpdate:
    """The step that the next backward makes on the class centres.

    Learning rate, momentum, Nesterov and weight decay are those of the optimiser's group when the
    forward runs. The momentum buffer is in the optimiser's state, so that it is saved and loaded as
    usual.

    Args:
        optimizer: has `weight` in one of its groups.
        weight: the class centres (C, D).
        scaler: the gradient scaler of the loss, if there is one.
        momentum_dtype: of the momentum buffer; that of the class centres if left out. A wider one is
            rounded to that of the class centres by `optimizer.load_state_dict`.
        keeps_unit_rows: see `CentreUpdate`.

    Attributes:
        skip: 0-d bool on the device; while it is True, steps change nothing. Set it in place.

    Raises:
        TypeError: the optimiser is not torch.optim.SGD, or a dtype cannot be updated.
        ValueError: it does not have these class centres, or uses a setting that is not supported.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        weight: Tensor,
        scaler: torch.amp.GradScaler | None = None,
        momentum_dtype: torch.dtype | None = None,
        keeps_unit_rows: bool | None = None,
    ) -> None:
        if not isinstance(optimizer, torch.optim.SGD):
            raise TypeError(
                f"class centres are updated in the backward by torch.optim.SGD only, got {type(optimizer)}"
            )
        self.optimizer, self.weight, self.scaler = optimizer, weight, scaler
        self.momentum_dtype = momentum_dtype or weight.dtype
        self.keeps_unit_rows = keeps_unit_rows
        check_dtype("the class centres", weight.dtype)
        check_dtype("momentum_dtype", self.momentum_dtype)
        group = self._group()
        if unknown := [name for name in ("dampening", "maximize") if group[name]]:
            raise ValueError(f"the update of class centres in the backward knows no {unknown[0]}")
        self.skip = torch.zeros((), dtype=torch.bool, device=weight.device)
        if group["momentum"]:
            self._momentum()

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """None: a copy of a head has its own class centres, which this optimiser does not have."""

    def next(self) -> CentreUpdate:
        """The step for the backward of a forward that runs now; takes a number from torch's generator."""
        group, device = self._group(), self.weight.device
        one = torch.ones((), device=device, dtype=torch.float64)
        scaled = self.scaler is not None and self.scaler.is_enabled()
        return CentreUpdate(
            momentum_buffer=self._momentum() if group["momentum"] else None,
            lr=one * group["lr"],
            loss_scale=self.scaler.scale(one) if scaled else one,  # pyright: ignore[reportOptionalMemberAccess]
            skip=self.skip,
            seed=torch.randint(LARGEST, (), device=device),
            momentum=group["momentum"],
            nesterov=group["nesterov"],
            weight_decay=group["weight_decay"],
            keeps_unit_rows=self.keeps_unit_rows,
        )

    def _group(self) -> dict[str, Any]:
        """The optimiser's group with the class centres."""
        for group in self.optimizer.param_groups:
            if any(parameter is self.weight for parameter in group["params"]):
                return group
        raise ValueError("the optimiser must have the head's class centres among its parameters")

    def _momentum(self) -> Tensor:
        """Zeros at first, as if there had been steps without a gradient; of the wanted dtype."""
        state = self.optimizer.state[self.weight]
        buffer = state.get(BUFFER)
        if buffer is None:
            buffer = torch.zeros_like(self.weight, dtype=self.momentum_dtype)
        # `load_state_dict` gives it the dtype of the parameter; bfloat16 loses nothing on the way.
        state[BUFFER] = buffer.to(self.momentum_dtype)
        return state[BUFFER]
