"""Unit rows of class centres that a step of SGD left for the next forward (`centre_step.py`).

Unit rows are used only while they match the class centres: these have the same memory, and the counter
that PyTorch keeps for every tensor says that nobody has written to it since. A forward in training sets the
precision of the unit rows. A captured CUDA graph repeats writes that no counter sees. So once a step is
captured no unit rows are kept, and a captured forward reads none.
"""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakIdKeyDictionary

from fusedface.kernels.gpu import launch

if TYPE_CHECKING:
    from fusedface.kernels.gpu.arguments import UnitRows


class Centres:
    """The state of class centres that `step` updates."""

    def __init__(self) -> None:
        self.wanted = ""  # precision of the last forward in training
        self.may_keep = True
        self.unit: UnitRows | None = None
        self.precision = ""
        self.written: tuple[object, ...] = ()  # `identity` after the step

    def forget(self) -> None:
        """Drop the unit rows."""
        self.unit, self.written = None, ()


known: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""`Centres` of each tensor of class centres that `follow` was called with."""


def follow(weight: Tensor) -> None:
    """From now on, `step` leaves unit rows of these class centres, and `unit_rows` finds them."""
    known.setdefault(weight, Centres())


def forget(weight: Tensor) -> None:
    """Drop the unit rows, after a write to the class centres that PyTorch does not count."""
    if (centres := known.get(weight)) is not None:
        centres.forget()


def unit_rows(weight: Tensor, precision: str, training: bool) -> "UnitRows | None":
    """Unit rows of `weight` (C, D) in `precision`, or None if there are no valid ones."""
    centres = known.get(weight) if known else None
    if centres is None or launch.is_capturing(weight.device):
        return None
    if training:
        centres.wanted = precision
    if centres.unit is None or centres.precision != precision:
        return None
    return centres.unit if centres.written == identity(weight) else None


def identity(weight: Tensor) -> tuple[object, ...]:
    """Changes when the class centres are written or get other memory."""
    storage = StorageWeakRef(weight.untyped_storage())  # held, so that no other tensor gets its id
    return weight._version, storage, weight.data_ptr(), weight.dtype, weight.shape, weight.stride()
