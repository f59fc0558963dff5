"""Unit rows of class centres that a step of SGD left for the next forward (`centre_step.py`).

Unit rows are used only while they are those of the class centres: the same memory, and nobody has written
to it since, by the counter that PyTorch keeps for every tensor. A forward in training says which precision
is wanted. A captured CUDA graph repeats writes that no counter sees, so nothing is kept once a step is
captured, and nothing kept is read by a captured forward.
"""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakIdKeyDictionary

from fusedface.kernels.gpu import launch

if TYPE_CHECKING:
    from fusedface.kernels.gpu.arguments import UnitRows


class Centres:
    """What is known of class centres that are updated here."""

    def __init__(self) -> None:
        self.wanted = ""  # precision of the last forward in training
        self.may_keep = True
        self.unit: UnitRows | None = None
        self.precision = ""
        self.written: tuple[object, ...] = ()  # `identity` after the step

    def forget(self) -> None:
        """Let the unit rows go."""
        self.unit, self.written = None, ()


known: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""`Centres` of each tensor of class centres that `follow` was called with."""


def follow(weight: Tensor) -> None:
    """From now on, `step` leaves unit rows of these class centres, and `unit_rows` finds them."""
    known.setdefault(weight, Centres())


def forget(weight: Tensor) -> None:
    """The class centres were written in a way that PyTorch does not count."""
    if (centres := known.get(weight)) is not None:
        centres.forget()


def unit_rows(weight: Tensor, precision: str, training: bool) -> "UnitRows | None":
    """Unit rows of `weight` (C, D) in `precision` that hold, or None."""
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
    storage = StorageWeakRef(weight.untyped_storage())  # held: its number is not given again
    return weight._version, storage, weight.data_ptr(), weight.dtype, weight.shape, weight.stride()
