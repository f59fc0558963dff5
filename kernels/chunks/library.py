"""Call the functions of passes.c on contiguous tensors; their half precision is bfloat16, else float32."""

import ctypes
from ctypes import POINTER, Structure, c_float, c_int, c_long, c_void_p
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

PARTS = 256  # of a sum over rows, so that its order does not depend on the number of threads

SHARED_FROM = (
    2**17
)  # numbers of a batch: with fewer, a second thread takes longer to start than the work


class Excess(Structure):
    """N(y) - y of a hard negative, (a y + l) y + k, in base-2 logits."""

    _fields_: ClassVar = [("a", c_float), ("l", c_float), ("k", c_float)]


class SumPointers(Structure):
    """The rows of `Sums.numbers`, in their order."""

    _fields_: ClassVar = [
        (name, c_void_p)
        for name in ("largest", "total", "rescale", "max_y", "num_hard", "least", "lift_sum")
    ]


class Sums(NamedTuple):
    """What a forward sums up over the chunks."""

    numbers: Tensor  # (7, B)
    pointers: SumPointers
    direction: Tensor | None  # (B, D), if it was asked for


class Negatives(NamedTuple):
    """The arguments of both passes on the negatives: labels (B,) int64, threshold (B,) in base 2, N."""

    labels: Tensor
    threshold: Tensor
    excess: Excess


class Library:
    """A library made of passes.c and rows.c. Every call runs on as many threads as torch's operators."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        row, flag = c_long, c_int
        self._unit_rows = library.unit_rows
        self._unit_rows.argtypes = [row, row, c_void_p, c_float, c_void_p, c_void_p, flag, c_int]
        self._take_in = library.take_in
        self._take_in.argtypes = [
            row, row, c_void_p, flag, c_void_p, c_long, c_void_p, Excess, POINTER(SumPointers),
            c_void_p, c_void_p, c_int,
        ]  # fmt: skip
        self._begin = library.begin
        self._begin.argtypes = [row, row, POINTER(SumPointers), c_void_p]
        self._add_part = library.add_part
        self._add_part.argtypes = [row, row, c_void_p, c_void_p, c_void_p, flag, c_int]
        self._coefficients = library.coefficients
        self._coefficients.argtypes = [
            row, row, c_void_p, flag, c_void_p, c_long, c_void_p, Excess, c_void_p, c_int
        ]  # fmt: skip
        self._project = library.project
        self._project.argtypes = [
            row, row, c_void_p, flag, row, c_void_p, row,
            c_void_p, c_void_p, c_void_p, c_void_p, c_int,
        ]  # fmt: skip
        self._scale_rows = library.scale_rows
        self._scale_rows.argtypes = [row, row, *[c_void_p] * 4, flag, c_int]
        self._turn_rows = library.turn_rows
        self._turn_rows.argtypes = [row, row, *[c_void_p] * 4, c_int]
        self._prelu_backward = library.prelu_backward
        self._prelu_backward.argtypes = [
            row, row, c_void_p, c_void_p, c_void_p, c_void_p, row, c_void_p, c_int
        ]  # fmt: skip
        self._advise = library.advise_large_pages
        self._advise.argtypes = [c_void_p, c_long]
        for function in vars(self).values():
            function.restype = None
        self.loaded = library
        """With the functions of rows.c, too; see rows.py."""

    def unit_rows(self, rows: Tensor, shortest: float, inverse: Tensor, unit: Tensor) -> None:
        """Write the inverse lengths (K,) and unit rows (K, D), float32 or bfloat16, of `rows` (K, D)."""
        self._unit_rows(
            *rows.shape, rows.data_ptr(), shortest, inverse.data_ptr(), unit.data_ptr(),
            _is_half(unit), torch.get_num_threads(),
        )  # fmt: skip

    def begin(self, x: Tensor, with_direction: bool) -> Sums:
        """The sums of no chunk, for embeddings like x (B, D)."""
        numbers = x.new_empty(len(SumPointers._fields_), len(x))
        # Not empty_like: x has the order in memory that the embeddings came in.
        direction = x.new_empty(x.shape) if with_direction else None
        first, step = numbers.data_ptr(), numbers.stride(0) * numbers.element_size()
        pointers = SumPointers(*(first + i * step for i in range(len(numbers))))
        self._begin(*x.shape, pointers, None if direction is None else direction.data_ptr())
        return Sums(numbers, pointers, direction)

    def take_in(
        self, y: Tensor, start: int, of: Negatives, sums: Sums, to: Tensor, reference: Tensor | None
    ) -> None:
        """Update the sums, and write numerators times N' of y (B, K) to `to`, which may be y.

        reference (B,) gets the base-2 logits that they refer to.
        """
        self._take_in(
            *y.shape, y.data_ptr(), _is_half(y), of.labels.data_ptr(), start,
            of.threshold.data_ptr(), of.excess, sums.pointers, to.data_ptr(),
            None if reference is None else reference.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip

    def add_part(self, sums: Sums, part: Tensor) -> None:
        """Rescale the direction as the last `take_in` says, and add the part (B, D) of its chunk."""
        assert sums.direction is not None
        self._add_part(
            *part.shape, sums.direction.data_ptr(), sums.pointers.rescale, part.data_ptr(),
            _is_half(part), torch.get_num_threads(),
        )  # fmt: skip

    def coefficients(self, y: Tensor, start: int, of: Negatives, lse: Tensor) -> None:
        """Turn y (K, B) into probabilities times N'; `lse` (B,) is in base 2."""
        self._coefficients(
            *y.shape, y.data_ptr(), _is_half(y), of.labels.data_ptr(), start,
            of.threshold.data_ptr(), of.excess, lse.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip

    def project(
        self,
        d_unit: Tensor,
        start: int,
        of: Negatives,
        x_target: Tensor,
        rows: Tensor,
        inverse: Tensor,
        out: Tensor,
    ) -> None:
        """Write the gradient in `rows` (K, D), whose gradient in the unit rows is `d_unit`, to `out`.

        x_target (B, D) is added to that of the targets.
        """
        self._project(
            *rows.shape, d_unit.data_ptr(), _is_half(d_unit), len(x_target), of.labels.data_ptr(), start,
            x_target.data_ptr(), rows.data_ptr(), inverse.data_ptr(), out.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip

    def scale_rows(self, x: Tensor, reference: Tensor, lse: Tensor, to: Tensor) -> None:
        """Write x (B, D), its rows times 2^(reference - lse) of (B,), to `to`, float32 or bfloat16."""
        self._scale_rows(
            *x.shape, x.data_ptr(), reference.data_ptr(), lse.data_ptr(), to.data_ptr(),
            _is_half(to), threads_for(x),
        )  # fmt: skip

    def turn_rows(self, y: Tensor, reference: Tensor, lse: Tensor, to: Tensor) -> None:
        """Write y (B, K), its rows times 2^(reference - lse) of (B,), to `to` (K, B); all are float32."""
        self._turn_rows(
            *y.shape, y.data_ptr(), reference.data_ptr(), lse.data_ptr(), to.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip

    def prelu_backward(self, grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients in x (B, C, H, W) and weight (C,); grad and x channels last in memory."""
        dx, num_channels = torch.empty_like(x), len(weight)
        parts = x.new_empty(PARTS, num_channels)
        self._prelu_backward(
            x.numel() // num_channels, num_channels, grad.data_ptr(), x.data_ptr(), weight.data_ptr(),
            dx.data_ptr(), PARTS, parts.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return dx, parts.sum(dim=0)

    def advise_large_pages(self, numbers: Tensor) -> None:
        """Ask for 2 MB pages: with small pages, a new gradient's first use costs as much as a product."""
        self._advise(numbers.data_ptr(), numbers.nbytes)


def has_memory(*tensors: Tensor) -> bool:
    """Whether loops can read them: subclasses, such as fake tensors, may hold their numbers elsewhere."""
    return all(type(tensor) in (Tensor, Parameter) for tensor in tensors)


def threads_for(rows: Tensor) -> int:
    """How many threads should do one simple thing with the rows of a batch."""
    return torch.get_num_threads() if rows.numel() >= SHARED_FROM else 1


def _is_half(numbers: Tensor) -> bool:
    return numbers.dtype == torch.bfloat16
