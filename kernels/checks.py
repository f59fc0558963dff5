"""Checks of what a caller hands in: every error names the argument, the rule and the value."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WRONG_LABELS = "labels are out of range"
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


class NonFiniteInputError(ValueError):
    """An input holds NaN or infinity; `argument` names it."""

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(message)
        self.argument = argument


def check_tensors(
    embeddings: Tensor, weight: Tensor, labels: Tensor, sharded: bool = False
) -> None:
    """Raise TypeError or ValueError unless (B, D), (C, D) and (B,) agree in shape, dtype and device.

    `sharded`: whether other processes have classes too, so that there may be fewer than 2 here.
    """
    # Every eager step waits for this: what it needs is read once, and without loops.
    _check_dense("embeddings", embeddings)
    _check_dense("weight", weight)
    _check_dense("labels", labels)
    shape, centres = embeddings.shape, weight.shape
    _check_rows("embeddings", embeddings, shape, "B, D")
    _check_rows("weight", weight, centres, "C, D")
    if labels.dtype not in INTEGERS:
        raise TypeError(
            f"labels must be a tensor of integers such as torch.int64, got {labels.dtype}"
        )
    num_rows, dim = shape
    if num_rows == 0 or dim == 0:
        raise ValueError(f"embeddings must not be empty, got shape {tuple(shape)}")
    if centres[1] != dim:
        raise ValueError(
            f"weight must be (C, {dim}) to match embeddings {tuple(shape)}, got {tuple(centres)}"
        )
    if centres[0] < 2 and not sharded:
        raise ValueError(f"weight must hold at least 2 classes, got {centres[0]}")
    if labels.shape != (num_rows,):
        raise ValueError(f"labels must have shape ({num_rows},), got {tuple(labels.shape)}")
    if not embeddings.device == weight.device == labels.device:
        raise ValueError(
            "embeddings, weight and labels must be on one device, got "
            f"{embeddings.device}, {weight.device} and {labels.device}"
        )


def _check_dense(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(tensor).__module__}."
            f"{type(tensor).__qualname__}: torch.as_tensor makes one"
        )
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}")


def _check_rows(name: str, rows: Tensor, shape: torch.Size, meaning: str) -> None:
    if rows.dtype not in FLOATS:
        raise TypeError(f"{name} must be a floating-point tensor, got {rows.dtype}")
    if len(shape) != 2:
        raise ValueError(f"{name} must have shape ({meaning}), got {tuple(shape)}")


def check_state(names: Iterable[str], state: dict[str, Tensor]) -> None:
    """Raise TypeError or ValueError unless `state` has all `names`, as float32 or float64 tensors."""
    for name in names:
        value = state.get(name)
        if isinstance(value, Tensor) and value.dtype in (torch.float32, torch.float64):
            continue
        if missing := set(names) - state.keys():
            raise ValueError(
                f"state lacks {', '.join(sorted(missing))}, which the margin or the weighting carries"
            )
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"state {name} must be a tensor of float32, whose steps are kept, got {kind}"
        )


def check_keeps_nothing(embeddings: Tensor, weight: Tensor) -> None:
    """Raise ValueError if a backward could follow: only whole losses in kernels keep exponentials."""
    if torch.is_grad_enabled() and (embeddings.requires_grad or weight.requires_grad):
        raise ValueError(
            "keep_exponentials=True needs backend='triton' on a CUDA device, a margin with a form, "
            "and no weighting of one's own, sample_rate, process_group or fused update: leave it out"
        )


def can_be_read(device: torch.device) -> bool:
    """Whether the host can read a value on `device` without waiting for it."""
    return device.type == "cpu"


def check_values(
    embeddings: Tensor,
    labels: Tensor,
    state: dict[str, Tensor],
    num_classes: int | Tensor,
    ignore_index: int,
) -> None:
    """Raise ValueError for a label out of range, NonFiniteInputError for an input that is NaN or infinite.

    On a GPU, reading the answer would stall the queue. There a wrong label trips a device-side assertion,
    raised at the next synchronisation, like that of torch's own cross-entropy. An embedding that is not
    finite makes its row of `per_sample_loss` NaN; a state that is not finite, all rows that use it.
    """
    if not can_be_read(embeddings.device):
        # The only check that does not wait for the device; without a message torch.compile drops it.
        fits = _fits(labels, num_classes, ignore_index)
        torch.ops.aten._assert_async.msg(fits.all(), WRONG_LABELS)
        return
    low, high = labels.aminmax()
    if low < 0 or high >= num_classes:  # rare; only then the mask, which costs five more operators
        _check_labels(labels, num_classes, ignore_index)
    check_rows("embeddings", embeddings)
    check_state_values(state)


def check_state_values(state: dict[str, Tensor]) -> None:
    """Raise NonFiniteInputError for a number of the state that is NaN or infinite (CPU only)."""
    for name, value in state.items():
        if not math.isfinite(value):
            message = (
                f"state {name} must be finite, got {value.tolist()}: a head made on the meta device "
                "needs reset_parameters() after to_empty()"
            )
            raise NonFiniteInputError(f"state {name}", message)


def _fits(labels: Tensor, num_classes: int | Tensor, ignore_index: int) -> Tensor:
    return ((labels >= 0) & (labels < num_classes)) | (labels == ignore_index)


def _check_labels(labels: Tensor, num_classes: int | Tensor, ignore_index: int) -> None:
    wrong = ~_fits(labels, num_classes, ignore_index)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"labels must be in [0, {num_classes}) or ignore_index={ignore_index}, "
            f"got labels[{row}] = {int(labels[row])}"
        )


def check_centres(cos_y: Tensor, of_rows: Tensor, weight: Tensor) -> None:
    """Raise NonFiniteInputError for a class centre that made a number per row not finite (CPU only).

    Those are the target cosine and the log-sum-exp or the loss, (B,) each. The loss finds none if every
    label is ignored.
    """
    if can_be_read(of_rows.device) and not math.isfinite((cos_y + of_rows).detach().sum()):
        check_rows("weight", weight)


def check_rows(name: str, rows: Tensor) -> None:
    """Raise NonFiniteInputError for a row without a finite length."""
    rows = rows.detach()
    norms = torch.linalg.vector_norm(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)
    if math.isfinite(norms.sum()):
        return
    bad = ~norms.isfinite()
    if bad.any():
        row = int(bad.nonzero()[0])
        what = (
            "is too long to be squared" if rows[row].isfinite().all() else "holds NaN or infinity"
        )
        message = f"{name} must be finite, but row {row} of {len(rows)} {what}"
        raise NonFiniteInputError(name, f"{message} ({int(bad.sum())} such rows in all)")
