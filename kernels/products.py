"""Matrix products with low-precision operands, added up in float32."""

import functools
import platform
from typing import Any

import torch
from torch import Tensor


class Products:
    """The matrix products of one pass over the class centres.

    In "float32" and "tf32" they are plain, on x86 CPUs by oneDNN or MKL, whichever is faster. In "bfloat16"
    and "float16" operands are rounded; on CUDA the result is float32, on CPU torch has only products that
    round their result too (as under autocast), and what is summed over chunks is float32. A CPU runs
    "float16" as "bfloat16", and without bfloat16 arithmetic both in float32, which is faster there and
    more exact. Products with the coefficients of a gradient never use float16, in which those underflow.

    Args:
        device: where the operands are.
        precision: one of `options.PRECISIONS`.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self._on_cuda = device.type == "cuda"
        usable = self._on_cuda or bfloat16_is_fast()
        self._plain = precision in ("float32", "tf32") or not usable
        half = torch.float16 if precision == "float16" and self._on_cuda else torch.bfloat16
        self._half = half
        self.dtype = torch.float32 if self._plain else half  # of operands
        self._onednn = device.type == "cpu" and onednn_is_usable() and not mkl_is_fast()
        self.takes_turned = not (self._onednn and self.dtype == torch.float32)
        """Whether an operand of `as_they_come` that is turned in memory costs little; else it is copied."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """A new tensor a b, of (N, K) and (K, M)."""
        return self._times(a, b, self._half)

    def of_gradient(self, a: Tensor, b: Tensor) -> Tensor:
        """The same, where a holds coefficients of a gradient."""
        return self._times(a, b, torch.bfloat16)

    def as_they_come(self, a: Tensor, b: Tensor, space: Tensor | None = None) -> Tensor:
        """The same of operands that are rounded already; the result is rounded to their dtype.

        It may be `space` (N, M), which saves memory that is not in the cache.
        """
        if self._onednn and a.dtype == torch.float32:
            return torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")
        return _mm(a, b, out=space)

    def _times(self, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
        if self._plain:
            return self.as_they_come(a, b)
        if self._on_cuda:
            product = _mm(a.to(dtype), b.to(dtype), out_dtype=torch.float32)
        else:
            product = self.as_they_come(a.to(dtype), b.to(dtype))
        return product.to(torch.promote_types(a.dtype, torch.float32))


def _mm(a: Tensor, b: Tensor, **options: Any) -> Tensor:
    """`torch.mm`, also in a backward that is called within autocast, which would round the operands."""
    device = a.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return torch.mm(a, b, **options)
    with torch.autocast(device, enabled=False):
        return torch.mm(a, b, **options)


@functools.cache
def bfloat16_is_fast() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware, rather than slowly by emulation."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def onednn_is_usable() -> bool:
    """Whether torch can multiply float32 matrices by oneDNN on this x86 CPU.

    On AMD's with AVX-512 it is twice as fast as MKL (docs/performance.md). torch has no public name for it:
    `torch.mm` takes MKL. Off inside `torch.backends.mkldnn.flags(enabled=False)`.
    """
    return torch._C._get_mkldnn_enabled() and _onednn_is_there()


@functools.cache
def mkl_is_fast() -> bool:
    """Whether MKL is as fast as oneDNN here or faster: it uses AVX-512 on Intel's processors only.

    MKL also takes turned operands as they are, and writes to memory that is there already.
    """
    has_no_more = torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.backends.mkl.is_available() and (has_no_more or "GenuineIntel" in _vendor())


def _vendor() -> str:
    """What holds the name of the processor's maker, if the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next((line for line in lines if line.startswith("vendor_id")), "")
    except OSError:
        return platform.processor()  # on Windows it ends with the maker


@functools.cache
def _onednn_is_there() -> bool:
    return (
        torch.backends.cpu.get_cpu_capability().startswith("AVX")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
