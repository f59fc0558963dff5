"""Call the functions of rows.c, on contiguous float32 tensors of a batch of B embeddings."""

import ctypes
import functools
from ctypes import POINTER, Structure, byref, c_double, c_float, c_int, c_int64, c_long, c_void_p
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fusedface.kernels.chunks.library import Library, SumPointers, Sums, threads_for
from fusedface.kernels.interface.whole import Call
from fusedface.kernels.margins.form import Average

NUMBERS = ("length", "inverse", "cosine", "threshold", "lse", "a", "v")


class _Margin(Structure):
    _fields_: ClassVar = [
        *((name, c_int) for name in ("target", "average", "state_is_linear", "exact", "mean")),
        *((name, c_double) for name in ("n0", "n1", "n2", "momentum", "linear", "gamma")),
        *((name, c_double) for name in ("scale", "square")),
    ]


class _Rows(Structure):
    _fields_: ClassVar = [(name, c_void_p) for name in ("known", *NUMBERS)]


class _Results(Structure):
    _fields_: ClassVar = [(name, c_void_p) for name in (
        "loss", "target_cosine", "max_cosine", "lse", "num_hard", "correct"
    )]  # fmt: skip


class Rows(NamedTuple):
    """What the loops keep of each row; see `Rows` in rows.c."""

    known: Tensor  # (B,) int64: labels, -1 where ignored
    numbers: Tensor  # (7, B), in the order of NUMBERS
    x: Tensor  # (B, D) unit embeddings
    centres: Tensor  # (B, D) unit class centres of the targets
    pointers: _Rows  # for C, which has them all but x and centres

    def number(self, name: str) -> Tensor:
        """(B,), by its name in NUMBERS."""
        return self.numbers[NUMBERS.index(name)]


class Results(NamedTuple):
    """(B,) each."""

    loss: Tensor
    target_cosine: Tensor
    max_cosine: Tensor  # of the negatives
    lse: Tensor
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
            size, size, margin, c_float, c_void_p, SumPointers, _Rows, c_void_p, _Results,
            c_void_p, c_void_p,
        ]  # fmt: skip
        self._return.argtypes = [
            size, size, c_void_p, c_float, c_void_p, _Rows, *[c_void_p] * 6, flag
        ]  # fmt: skip
        for function in vars(self).values():
            function.restype = None
        self._enter.restype = self._leave.restype = flag

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
        x, centres = (embeddings.new_empty(num_rows, dim) for _ in range(2))
        known, numbers = torch.empty_like(labels), embeddings.new_empty(len(NUMBERS), num_rows)
        first, step = numbers.data_ptr(), num_rows * numbers.element_size()
        pointers = _Rows(known.data_ptr(), *[first + i * step for i in range(len(NUMBERS))])
        rows = Rows(known, numbers, x, centres, pointers)
        x_base2 = x.new_empty(num_rows, dim, dtype=dtype)
        fits = self._enter(
            num_rows, *weight.shape, embeddings.data_ptr(), weight.data_ptr(), labels.data_ptr(),
            ignore_index, shortest, base2, rows.pointers, x.data_ptr(), x_base2.data_ptr(),
            dtype == torch.bfloat16, centres.data_ptr(), threads_for(x),
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
        self, rows: Rows, call: Call, base2: float, used: Tensor, sums: Sums
    ) -> tuple[Tensor, Results, Tensor, bool]:
        """Losses and statistics from the sums, whose direction is divided by the totals of its rows.

        Returns:
            The reduced loss (0-d); results; smallest, mean and largest modulation (3,); False if a class
            centre is not finite.
        """
        new, num_rows = rows.numbers.new_empty, len(rows.known)
        # Tensors of their own, not views of one, which no one could change in place.
        loss, modulation = new(()), new(3)
        losses, target_cosine, max_cosine, lse = (new(num_rows) for _ in range(4))
        num_hard, correct = torch.empty_like(rows.known), new(num_rows, dtype=torch.bool)
        results = Results(losses, target_cosine, max_cosine, lse, num_hard, correct)
        is_finite = self._leave(
            num_rows, rows.x.shape[1], byref(_margin(call)), base2, used.data_ptr(), sums.pointers,
            rows.pointers, _pointer(sums.direction),
            _Results(*[result.data_ptr() for result in results]), loss.data_ptr(),
            modulation.data_ptr(),
        )  # fmt: skip
        return loss, results, modulation, bool(is_finite)

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
        x_negatives, x_target = torch.empty_like(x), torch.empty_like(x)
        d_embeddings = None if direction is None else torch.empty_like(x)
        self._return(
            *x.shape, _pointer(d_loss), share, _pointer(d_losses), rows.pointers, x.data_ptr(),
            rows.centres.data_ptr(), _pointer(direction), _pointer(d_embeddings),
            x_negatives.data_ptr(), x_target.data_ptr(), threads_for(x),
        )  # fmt: skip
        return d_embeddings, x_negatives, x_target


@functools.cache
def row_loops(library: Library) -> RowLoops:
    """The functions of rows.c in a head's library."""
    return RowLoops(library.loaded)


@functools.lru_cache(maxsize=256)
def _margin(call: Call) -> _Margin:
    average = call.average if call.training else Average.NOTHING.value
    return _Margin(
        call.target, average, call.state_is_linear, call.exact, call.mean, call.n0, call.n1, call.n2,
        call.momentum, call.linear, call.gamma, call.scale, call.square,
    )  # fmt: skip


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
