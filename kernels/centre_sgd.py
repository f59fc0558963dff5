"""CentreSGD: torch's SGD, with the class centres' step and their unit rows in one kernel on a GPU."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusedface.kernels.dispatch import without_triton

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT


class CentreSGD(torch.optim.SGD):
    """`torch.optim.SGD` for a network and its class centres, whose step is one kernel on a GPU.

    On a GPU that kernel makes the whole step of the class centres in one pass over memory: weight
    decay, momentum, Nesterov, the loss scale, and no change where a gradient is not finite. It also
    writes the unit rows (normalised class centres) that the next forward of `backend="triton"` would
    make first. That forward uses them if nothing else has written the class centres since. They stay
    in memory between steps: 2 C D bytes in half precision, 4 C D otherwise. On other devices, and for
    all other parameters, torch's own step runs.

    `state_dict` is that of `torch.optim.SGD`; each of the two loads the other's. With
    `torch.amp.GradScaler` on a GPU nothing waits for the device; gradients of the class centres then
    stay scaled after the step.

    PyTorch does not count every write to a tensor. After writing class centres through `.data`, or by
    another optimiser with `fused=True`, call `forget()`.

    Args:
        params: as in `torch.optim.SGD`: parameters or groups of them, including the class centres.
        centres: the class centres (C, D), such as `head.weight`.
        lr: the learning rate: a number. In a group it may become a tensor of one number on the device,
            which a captured CUDA graph reads at each replay; no unit rows are kept then, except by
            `keep_in_graphs`.
        momentum: in [0, 1); 0 for none.
        weight_decay: at least 0.
        nesterov: needs a momentum above 0.

    Raises:
        ValueError: `centres` is not a contiguous matrix or not in `params`, or a rate is out of its range.
    """

    # A copy of this optimiser has only the parameters, and then makes torch's own step.
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a loaded state, all except which of torch's steps ran: here that follows from the device."""
        super().__setstate__(state)
        if self._centres is not None:  # None in a copy
            for group in self.param_groups:
                group |= {name: self.defaults[name] for name in ("foreach", "fused")}

    def forget(self) -> None:
        """Drop the unit rows: the class centres were written in a way that PyTorch does not count."""
        if self._kernels is not None:
            self._kernels.forget(self._centres)

    def keep_in_graphs(self) -> None:
        """Keep unit rows also in steps that a CUDA graph captures, from before their first rehearsal.

        Whoever captures and replays then calls `before_replay` before the capture and before each replay.
        Without this method a captured forward makes its own unit rows.
        """
        if self._kernels is not None:
            self._kernels.keep_in_graphs(self._centres)

    def before_replay(self) -> None:
        """Make the unit rows again if the class centres were written since the last step or replay."""
        if self._kernels is not None:
            self._kernels.refresh(self._centres)

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        momentum_buffer_list: list[Tensor | None],
    ) -> bool:
        """Torch's step calls this for each group: it makes the class centres' step and leaves them out."""
        if self._kernels is not None and group["momentum"] != 0:
            # A momentum of zeros is what the first step has, and outlives a first step that is skipped.
            for p in group["params"]:
                if p.grad is not None and self.state[p].get("momentum_buffer") is None:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        is_sparse = super()._init_group(group, params, grads, momentum_buffer_list)
        for i, p in enumerate(params):
            if p is not self._centres:
                continue
            if not self._is_plain(group, p, grads[i]):
                self.forget()  # PyTorch does not count the write of its own fused step
                break
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
            and _is_rate(group["lr"], centres)
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


def _is_rate(lr: object, centres: Tensor) -> bool:
    """Whether the kernel takes it: a number, or one on the device, as a captured step needs."""
    if isinstance(lr, Tensor):
        return lr.numel() == 1 and lr.is_floating_point() and lr.device == centres.device
    return isinstance(lr, float | int)


def _kernels(centres: Tensor) -> Any:
    """The module of the GPU's kernels, if they run on these class centres."""
    if without_triton() or centres.dtype == torch.float64:
        return None
    from fusedface.kernels.gpu import arguments, centre_step

    is_there = centres.device.type == "cuda" or arguments.INTERPRETED
    return centre_step if is_there else None
