"""Unit rows of class centres that a step of SGD left for the next forward (`centre_step.py`).

Unit rows are used only while they match the class centres: these have the same memory, and the counter
that PyTorch keeps for every tensor says that nobody has written to it since. A forward in training sets the
precision of the unit rows.

A captured CUDA graph repeats writes that no counter sees. So once a step is captured no unit rows are kept,
and a captured forward reads none, unless whoever replays calls `centre_step.refresh` before (`in_graphs`).
Then the graph's forward reads what its step, or an eager one, has written to the same memory. What an eager
step finds there after a replay is right too: the graph has written class centres and unit rows together.
"""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakIdKeyDictionary

from fusedface.kernels.gpu import launch, layout

if TYPE_CHECKING:
    from fusedface.kernels.gpu.arguments import UnitRows


class Centres:
    """The state of class centres that `step` updates."""

    def __init__(self) -> None:
        self.wanted = ""  # precision of the last forward in training
        self.in_graphs = False  # whether `refresh` comes before each capture and replay
        self.may_keep = True  # False for good once a graph writes class centres without unit rows
        self.loaded: set[object] = set()  # kernels of captured steps without unit rows
        self.unit: UnitRows | None = None
        self.precision = ""
        self.written: tuple[object, ...] = ()  # `identity` when they were right
        # What graphs use: this memory is not freed before the class centres are.
        self.captured: tuple[UnitRows, str] | None = None

    def keep(self, weight: Tensor, unit: "UnitRows", precision: str) -> None:
        """Note that these are the unit rows of the class centres as they are now."""
        self.unit, self.precision, self.written = unit, precision, identity(weight)

    def forget(self) -> None:
        """The unit rows hold no more; their memory stays if a graph has it or may get it."""
        self.written = ()
        if not self.in_graphs:
            self.unit = None

    def holds(self, weight: Tensor, precision: str) -> bool:
        """Whether there are unit rows of these class centres as they are now."""
        is_there = self.may_keep and self.unit is not None and self.precision == precision
        return is_there and self.written == identity(weight)

    def capture(self) -> None:
        """Note that a graph uses the memory of the unit rows from now on."""
        assert self.unit is not None
        self.captured = self.captured or (self.unit, self.precision)


def fits(unit: "UnitRows", weight: Tensor, precision: str) -> bool:
    """Whether this memory is that of the unit rows of `weight` (C, D) in `precision`."""
    num, dim = weight.shape
    return unit.rows.shape == (layout.padded_classes(num), layout.padded_dim(dim, precision))


known: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""`Centres` of each tensor of class centres that `follow` was called with."""


def follow(weight: Tensor) -> None:
    """From now on, `step` leaves unit rows of these class centres, and `unit_rows` finds them."""
    known.setdefault(weight, Centres())


def keep_in_graphs(weight: Tensor) -> None:
    """From now on, captured steps keep unit rows too; `refresh` then comes before capture and replay."""
    known[weight].in_graphs = True


def forget(weight: Tensor) -> None:
    """Drop the unit rows, after a write to the class centres that PyTorch does not count."""
    if (centres := known.get(weight)) is not None:
        centres.forget()
        if launch.is_capturing(weight.device):
            centres.may_keep = False


def unit_rows(weight: Tensor, precision: str, training: bool) -> "UnitRows | None":
    """Unit rows of `weight` (C, D) in `precision`, or None if there are no valid ones."""
    centres = known.get(weight) if known else None
    if centres is None:
        return None
    is_captured = launch.is_capturing(weight.device)
    if is_captured and not centres.in_graphs:
        return None
    if training:
        centres.wanted = precision
    if not centres.holds(weight, precision):
        return None
    if is_captured:
        centres.capture()
    return centres.unit


def identity(weight: Tensor) -> tuple[object, ...]:
    """Changes when the class centres are written or get other memory."""
    storage = StorageWeakRef(weight.untyped_storage())  # held, so that no other tensor gets its id
    return weight._version, storage, weight.data_ptr(), weight.dtype, weight.shape, weight.stride()
