"""Call the loops of this folder on CPU tensors in float32 or bfloat16, channels last in memory."""

import ctypes
import functools
from ctypes import Structure, byref, c_float, c_int, c_long, c_void_p
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from fusedface.kernels.chunks import build
from fusedface.models.loops.operands import ACTIVATIONS, Affine, Statistics

MAX_LANES = 16  # as in lanes.c
PARTS, ROWS = 64, 64  # of sums over rows, at most and at least: their order depends on sizes only


class _Norm(Structure):
    _fields_: ClassVar = [
        ("rows", c_long), ("channels", c_long), ("parts", c_long), ("threads", c_long),
        ("half", c_int), ("activation", c_int), ("eps", c_float),
        ("weight", c_void_p), ("bias", c_void_p), ("slope", c_void_p),
        ("mean", c_void_p), ("inverse", c_void_p), ("variance", c_void_p), ("space", c_void_p),
    ]  # fmt: skip


class _Depthwise(Structure):
    _fields_: ClassVar = [
        ("images", c_long), ("height", c_long), ("width", c_long), ("out_height", c_long),
        ("out_width", c_long), ("channels", c_long), ("parts", c_long), ("threads", c_long),
        ("half", c_int),
        ("weight", c_void_p), ("space", c_void_p), ("rows", c_void_p),
    ]  # fmt: skip


class Loops:
    """The compiled library. Every call runs on as many threads as torch's operators."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        self._norm_forward, self._norm_backward = library.norm_forward, library.norm_backward
        self._norm_forward.argtypes = [c_void_p] * 3
        self._norm_backward.argtypes = [c_void_p] * 7
        self._norm_by_running = library.norm_by_running
        self._norm_by_running.argtypes = [c_void_p] * 2
        self._depthwise_backward = library.depthwise_backward
        self._global_depthwise_backward = library.global_depthwise_backward
        for function in (self._depthwise_backward, self._global_depthwise_backward):
            function.argtypes = [c_void_p] * 5
        for function in vars(self).values():
            function.restype = None

    def norm_forward(self, x: Tensor, affine: Affine, eps: float) -> tuple[Tensor, Statistics]:
        """Normalise x (B, C, H, W) by the statistics of the batch; returns the result and them."""
        out, statistics = torch.empty_like(x), Statistics(*affine.weight.new_empty(3, x.shape[1]))
        self._norm_forward(byref(_norm(x, affine, statistics, eps)), x.data_ptr(), out.data_ptr())
        return out, statistics

    def norm_by_running(
        self, x: Tensor, affine: Affine, mean: Tensor, variance: Tensor, eps: float
    ) -> None:
        """Normalise x (B, C, H, W) in its own memory, by statistics (C,) of earlier batches."""
        unread = mean  # 1 / sqrt(variance + eps): it follows from the others
        of = _norm(x, affine, Statistics(mean, unread, variance), eps)
        self._norm_by_running(byref(of), x.data_ptr())

    def norm_backward(
        self, grad: Tensor, x: Tensor, affine: Affine, statistics: Statistics, with_dx: bool
    ) -> tuple[Tensor | None, Tensor]:
        """The gradient in x, if it is asked for, and those in weight, bias and slope (3, C)."""
        dx = torch.empty_like(x) if with_dx else None
        d_affine = affine.weight.new_empty(3, x.shape[1])
        self._norm_backward(
            byref(_norm(x, affine, statistics)), x.data_ptr(), grad.data_ptr(),
            None if dx is None else dx.data_ptr(), *(row.data_ptr() for row in d_affine),
        )  # fmt: skip
        return dx, d_affine

    def depthwise_backward(self, grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients in x and weight (C, 1, 3, 3), float32; padding 1 and stride 2."""
        taps, dx = weight.flatten(1).T.contiguous(), torch.empty_like(x)
        d_taps, size = torch.empty_like(taps), len(weight) + MAX_LANES
        parts = min(PARTS, len(x))
        space = taps.new_empty(parts, 9, size)
        rows = taps.new_empty(parts, 2, size, grad.shape[3] + 2)
        of = _Depthwise(
            len(x), *x.shape[2:], *grad.shape[2:], len(weight), parts, torch.get_num_threads(),
            x.dtype == torch.bfloat16, taps.data_ptr(), space.data_ptr(), rows.data_ptr(),
        )  # fmt: skip
        self._depthwise_backward(
            byref(of), x.data_ptr(), grad.data_ptr(), dx.data_ptr(), d_taps.data_ptr()
        )
        return dx, d_taps.T.reshape(weight.shape)

    def global_depthwise_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same for a weight (C, 1, H, W) of the size of x, without padding."""
        taps, dx = weight.flatten(1).T.contiguous(), torch.empty_like(x)
        d_taps = torch.empty_like(taps)
        of = _Depthwise(
            len(x), *x.shape[2:], 1, 1, len(weight), len(taps), torch.get_num_threads(),
            x.dtype == torch.bfloat16, taps.data_ptr(), None, None,
        )  # fmt: skip
        self._global_depthwise_backward(
            byref(of), x.data_ptr(), grad.data_ptr(), dx.data_ptr(), d_taps.data_ptr()
        )
        return dx, d_taps.T.reshape(weight.shape)


@functools.cache
def loops() -> Loops | None:
    """The library, compiled on the first call on a machine; None if that fails."""
    return build.load(SOURCE)


SOURCE = build.Source(
    "layers",
    tuple(
        Path(__file__).with_name(name) for name in ("numbers.c", "lanes.c", "norm.c", "depthwise.c")
    ),
    Loops,
)


def _norm(x: Tensor, affine: Affine, statistics: Statistics, eps: float = 0.0) -> _Norm:
    channels = x.shape[1]
    rows = x.numel() // channels
    parts = max(1, min(PARTS, rows // ROWS))
    space = x.new_empty(parts, 3, channels, dtype=torch.float64)
    slope = None if affine.slope is None else affine.slope.data_ptr()
    of = _Norm(
        rows, channels, parts, torch.get_num_threads(),
        x.dtype == torch.bfloat16, ACTIVATIONS.index(affine.activation), eps,
        affine.weight.data_ptr(), affine.bias.data_ptr(), slope,
        *(row.data_ptr() for row in statistics), space.data_ptr(),
    )  # fmt: skip
    of.held = space  # lives as long as its address is here
    return of
