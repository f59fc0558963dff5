"""Matrix products with low-precision operands, added up in float32."""

import torch
from torch import Tensor


class Products:
    """The matrix products of one pass over the class centres.

    In "float32" and "tf32" they are plain. In "bfloat16" and "float16" operands are rounded; on CUDA the
    result is float32, on CPU torch has only products that round their result too (as under autocast),
    and what is summed over chunks is float32. A CPU runs "float16" as "bfloat16", and without
    bfloat16 arithmetic both in float32, which is faster there and more exact. Products with the
    coefficients of a gradient (`add`, `into_gradient`) never use float16, in which those underflow.

    Args:
        device: where the operands are.
        precision: one of `primitive.PRECISIONS`.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self._on_cuda = device.type == "cuda"
        usable = self._on_cuda or bfloat16_is_fast()
        self._plain = precision in ("float32", "tf32") or not usable
        half = torch.float16 if precision == "float16" and self._on_cuda else torch.bfloat16
        self._dtype = half

    def into(self, out: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """out <- a b, of (N, K) and (K, M)."""
        return self._into(out, a, b, self._dtype)

    def into_gradient(self, out: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """out <- a b, where a holds coefficients of a gradient."""
        return self._into(out, a, b, torch.bfloat16)

    def add(self, out: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """out <- out + a b, where a holds coefficients of a gradient."""
        if self._plain:
            return out.addmm_(a, b)
        return out.add_(self._rounded(a, b, torch.bfloat16))

    def _into(self, out: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
        if self._plain:
            return torch.mm(a, b, out=out)
        return out.copy_(self._rounded(a, b, dtype))

    def _rounded(self, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
        if self._on_cuda:
            return torch.mm(a.to(dtype), b.to(dtype), out_dtype=torch.float32)
        return torch.mm(a.to(dtype), b.to(dtype))


def bfloat16_is_fast() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware, rather than slowly by emulation."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
