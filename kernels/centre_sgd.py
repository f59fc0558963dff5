"""CentreSGD: torch's SGD, with the class centres' step and their unit rows in one kernel on a GPU."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusedface.kernels.dispatch import without_triton

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT


class CentreSGD(torch.optim.SGD):
    """`torch.optim.SGD` of a network and its class centres; on a GPU the latter take one pass over memory.

    That pass is the step (weight decay, momentum, Nesterov, the loss scale, and no step where a gradient is
    not finite) and writes the unit rows that the next forward of `backend="triton"` would make first: they
    are used while nothing else writes the class centres, and are 2 C D bytes in half precision, 4 C D
    otherwise, that stay between steps. Elsewhere, and for all other parameters, it is torch's own;
    `state_dict` is that of `torch.optim.SGD`, and either loads the other's. With `torch.amp.GradScaler` on
    a GPU nothing waits for the device; gradients of the class centres then stay scaled after the step.

    What PyTorch's counters do not see is not seen here: after writing class centres through `.data`, or by
    another optimiser with `fused=True`, call `forget()`.

    Args:
        params: as of `torch.optim.SGD`: parameters or groups of them, the class centres among them.
        centres: the class centres (C, D), such as `head.weight`.
        lr, momentum, weight_decay, nesterov: as of `torch.optim.SGD`, without dampening.

    Raises:
        ValueError: `centres` is no contiguous matrix or not among `params`, or a rate is out of its range.
    """

    # A copy of this optimiser, which has only the parameters, is torch's own.
    _centres: Tensor | None = None
    _kernels: Any = None

    def __init__(
        self,
        params: "ParamsT",
        centres: Tensor,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        # Torch's own fused step of the other parameters takes loss scale and skipping from the device too.
        fused = True if centres.device.type == "cuda" else None
        super().__init__(
            params, lr, momentum, weight_decay=weight_decay, nesterov=nesterov, fused=fused
        )
        if centres.dim() != 2 or not centres.is_contiguous():
            raise ValueError(
                f"centres must be a contiguous matrix (C, D), got shape {tuple(centres.shape)} "
                f"with strides {centres.stride()}"
            )
        if not any(p is centres for group in self.param_groups for p in group["params"]):
            raise ValueError("centres must be among params: pass head.weight in both")
        self._centres = centres
        self._kernels = _kernels(centres)
        if self._kernels is not None:
            self._kernels.follow(centres)

    def forget(self) -> None:
        """The class centres were written in a way that PyTorch does not count, such as `.data`."""
        if self._kernels is not None:
            self._kernels.forget(self._centres)

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        momentum_buffer_list: list[Tensor | None],
    ) -> bool:
        """What torch's step asks of each group: class centres take their step here, and are left out."""
        if self._kernels is not None and group["momentum"] != 0:
            # A momentum of zeros is what the first step has, and outlives a first step that is skipped.
            for p in group["params"]:
                if p.grad is not None and self.state[p].get("momentum_buffer") is None:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        is_sparse = super()._init_group(group, params, grads, momentum_buffer_list)
        for i, p in enumerate(params):
            if p is self._centres and self._is_plain(group, p, grads[i]):
                self._step_centres(group, p, grads[i])
                for listed in (params, grads, momentum_buffer_list):
                    del listed[i : i + 1]
                break
        return is_sparse

    def _is_plain(self, group: dict[str, Any], centres: Tensor, grad: Tensor) -> bool:
        """Whether the kernel computes this step; else torch's own does."""
        if self._kernels is None or grad.is_sparse:
            return False
        momentum = self.state[centres]["momentum_buffer"] if group["momentum"] else grad
        return (
            not (group["dampening"] or group["maximize"] or group["differentiable"])
            and isinstance(group["lr"], float | int)
            and isinstance(group["weight_decay"], float | int)
            and all(tensor.is_contiguous() for tensor in (centres, grad, momentum))
        )

    def _step_centres(self, group: dict[str, Any], centres: Tensor, grad: Tensor) -> None:
        rates = self._kernels.Rates(
            *(group[name] for name in ("lr", "momentum", "weight_decay", "nesterov"))
        )
        momentum = self.state[centres]["momentum_buffer"] if group["momentum"] else None
        self._kernels.step(
            centres, grad, momentum, rates,
            getattr(self, "grad_scale", None), getattr(self, "found_inf", None),
        )  # fmt: skip


def _kernels(centres: Tensor) -> Any:
    """The module of the GPU's kernels, if they run on these class centres."""
    if without_triton() or centres.dtype == torch.float64:
        return None
    from fusedface.kernels.gpu import arguments, centre_step

    is_there = centres.device.type == "cuda" or arguments.INTERPRETED
    return centre_step if is_there else None
