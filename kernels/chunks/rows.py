"""Call the functions of rows.c, on contiguous float32 tensors of a batch of B embeddings."""

import ctypes
import functools
from ctypes import POINTER, Structure, byref, c_double, c_float, c_int, c_int64, c_long, c_void_p
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.chunks.library import Library
from fusedface.kernels.interface.whole import Call
from fusedface.kernels.margins.form import Average

if TYPE_CHECKING:
    from fusedface.kernels.chunks.operands import Totals

NUMBERS = ("length", "inverse", "cosine", "threshold", "lse", "a", "v")
TOTALS = ("largest", "total", "max_y", "num_hard", "least", "lift_sum")
SHARED_FROM = 2**17  # numbers of x: with fewer, starting a second thread takes longer than the work


class _Margin(Structure):
    _fields_: ClassVar = [
        *((name, c_int) for name in ("target", "average", "state_is_linear", "exact", "mean")),
        *((name, c_double) for name in ("n0", "n1", "n2", "momentum", "linear", "gamma")),
        *((name, c_double) for name in ("scale", "square")),
    ]


class _Rows(Structure):
    _fields_: ClassVar = [(name, c_void_p) for name in ("known", *NUMBERS)]


class _Totals(Structure):
    _fields_: ClassVar = [
        (name, c_void_p)
        for name in ("largest", "total", "rescale", "max_y", "num_hard", "least", "lift_sum")
    ]


class _Results(Structure):
    _fields_: ClassVar = [(name, c_void_p) for name in (
        "loss", "target_cosine", "max_cosine", "num_hard", "correct"
    )]  # fmt: skip


class Rows(NamedTuple):
    """What the loops keep of each row; see `Rows` in rows.c."""

    known: Tensor  # (B,) int64: labels, -1 where ignored
    numbers: Tensor  # (7, B), in the order of NUMBERS
    x: Tensor  # (B, D) unit embeddings
    centres: Tensor  # (B, D) unit class centres of the targets

    @property
    def pointers(self) -> _Rows:
        """For C."""
        first, step = self.numbers.data_ptr(), self.numbers.stride(0) * self.numbers.element_size()
        return _Rows(self.known.data_ptr(), *(first + i * step for i in range(len(NUMBERS))))

    def number(self, name: str) -> Tensor:
        """(B,), by its name in NUMBERS."""
        return self.numbers[NUMBERS.index(name)]


class Results(NamedTuple):
    """(B,) each: the losses, the target's cosine, the largest of the negatives, hard ones, who is right."""

    loss: Tensor
    target_cosine: Tensor
    max_cosine: Tensor
    num_hard: Tensor
    correct: Tensor


class RowLoops:
    """The functions of rows.c in a library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        size, flag, margin = c_long, c_int, POINTER(_Margin)
        self._enter, self._margin = library.enter_rows, library.apply_margin
        self._leave, self._return = library.leave_rows, library.return_rows
        self._enter.argtypes = [
            size, size, size, c_void_p, c_void_p, c_void_p, c_int64, c_float, c_float, _Rows,
            c_void_p, c_void_p, flag, c_void_p, flag,
        ]  # fmt: skip
        self._margin.argtypes = [size, margin, c_float, c_void_p, c_void_p, c_void_p, _Rows]
        self._leave.argtypes = [
            size, size, margin, c_float, c_void_p, _Totals, _Rows, c_void_p, _Results, c_void_p
        ]  # fmt: skip
        self._return.argtypes = [
            size, size, c_void_p, c_float, c_void_p, _Rows, *[c_void_p] * 6, flag
        ]  # fmt: skip
        for function in vars(self).values():
            function.restype = None
        self._enter.restype = flag

    def enter(
        self,
        embeddings: Tensor,
        weight: Tensor,
        labels: Tensor,
        ignore_index: int,
        shortest: float,
        base2: float,
        dtype: torch.dtype,
    ) -> tuple[Rows, Tensor, bool]:
        """Unit rows, lengths and target cosines; also unit embeddings times base2 in `dtype` (B, D).

        The last says whether all labels fit and all lengths are finite; else the others are not to be used.
        """
        num_rows, dim = embeddings.shape
        x, centres = embeddings.new_empty(2, num_rows, dim).unbind()
        numbers = embeddings.new_empty(len(NUMBERS), num_rows)
        rows = Rows(torch.empty_like(labels), numbers, x, centres)
        x_base2 = x.new_empty(num_rows, dim, dtype=dtype)
        fits = self._enter(
            num_rows, *weight.shape, embeddings.data_ptr(), weight.data_ptr(), labels.data_ptr(),
            ignore_index, shortest, base2, rows.pointers, x.data_ptr(), x_base2.data_ptr(),
            dtype == torch.bfloat16, centres.data_ptr(), _threads(x),
        )  # fmt: skip
        return rows, x_base2, bool(fits)

    def apply_margin(self, rows: Rows, call: Call, base2: float, state: list[Tensor]) -> Tensor:
        """T, its slope and the threshold; in training `state` takes the batch in.

        Returns:
            (4,): the state that is used, N's linear coefficient, the number of rows that are not ignored.
        """
        used = rows.numbers.new_empty(4)
        pointers = [value.data_ptr() for value in state]
        self._margin(
            len(rows.known), byref(_margin(call)), base2, *[*pointers, None, None][:2],
            used.data_ptr(), rows.pointers,
        )  # fmt: skip
        return used

    def leave(
        self, rows: Rows, call: Call, base2: float, used: Tensor, totals: "Totals"
    ) -> tuple[Results, Tensor]:
        """Losses and statistics from the totals, whose direction is divided by those of its row.

        Also (5,): the reduced loss, smallest, mean and largest modulation, and a number that is finite
        unless a class centre is not.
        """
        new, num_rows = rows.numbers.new_empty, len(rows.known)
        reduced, correct = new(5), new(num_rows, dtype=torch.bool)
        # Tensors of their own, not views of one, which no one could change in place.
        losses, target_cosine, max_cosine = (new(num_rows) for _ in range(3))
        num_hard = torch.empty_like(rows.known)
        results = Results(losses, target_cosine, max_cosine, num_hard, correct)
        sums = {name: getattr(totals, name).data_ptr() for name in TOTALS}
        self._leave(
            num_rows, rows.x.shape[1], byref(_margin(call)), base2, used.data_ptr(), _Totals(**sums),
            rows.pointers, _pointer(totals.direction),
            _Results(*(result.data_ptr() for result in results)), reduced.data_ptr(),
        )  # fmt: skip
        return results, reduced

    def give_back(
        self,
        rows: Rows,
        d_loss: Tensor | None,
        share: float,
        d_losses: Tensor | None,
        direction: Tensor | None,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Gradient in the embeddings, if `direction` is there; x times that through negatives and targets.

        All are (B, D). d_loss (0-d) counts `share` for each row, d_losses is (B,); None is zero.
        """
        x = rows.x
        x_negatives, x_target = x.new_empty(2, *x.shape).unbind()
        d_embeddings = None if direction is None else torch.empty_like(x)
        self._return(
            *x.shape, _pointer(d_loss), share, _pointer(d_losses), rows.pointers, x.data_ptr(),
            rows.centres.data_ptr(), _pointer(direction), _pointer(d_embeddings),
            x_negatives.data_ptr(), x_target.data_ptr(), _threads(x),
        )  # fmt: skip
        return d_embeddings, x_negatives, x_target


@functools.cache
def row_loops(library: Library) -> RowLoops:
    """The functions of rows.c in a head's library."""
    return RowLoops(library.loaded)


def _margin(call: Call) -> _Margin:
    average = call.average if call.training else Average.NOTHING.value
    return _Margin(
        call.target, average, call.state_is_linear, call.exact, call.mean, call.n0, call.n1, call.n2,
        call.momentum, call.linear, call.gamma, call.scale, call.square,
    )  # fmt: skip


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _threads(x: Tensor) -> int:
    return torch.get_num_threads() if x.numel() >= SHARED_FROM else 1
