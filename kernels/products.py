"""Matrix products with low-precision operands and float32 results, on CPU and GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Products:
    """The matrix products of one pass over the class centres.

    On CUDA, operands are rounded to `precision` and accumulated in float32. On CPU oneDNN does the same
    inside one float32 product where the processor has bfloat16 arithmetic; elsewhere, and for
    float16, the product stays in float32, which is as fast there and more exact. Products with the
    coefficients of a gradient (`add`) never round to float16, where those underflow.

    Args:
        device: where the operands are.
        precision: "float32", "bfloat16" or "float16".
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self._rounds = device.type == "cuda" and precision != "float32"
        self._on_cpu = device.type == "cpu" and precision == "bfloat16"
        self._dtype = getattr(torch, precision)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within it, and without autocast, `into` and `add` work as documented."""
        if not self._on_cpu:
            yield
            return
        matmul: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
        before = matmul.fp32_precision
        matmul.fp32_precision = "bf16"
        try:
            yield
        finally:
            matmul.fp32_precision = before

    def into(self, out: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """out <- a b, of (N, K) and (K, M)."""
        if self._rounds:
            a, b = a.to(self._dtype), b.to(self._dtype)
            return torch.mm(a, b, torch.float32, out=out)
        return torch.mm(a, b, out=out)

    def add(self, out: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """out <- out + a b."""
        if self._rounds:
            return out.add_(torch.mm(a.bfloat16(), b.bfloat16(), torch.float32))
        return out.addmm_(a, b)
