"""Roofline: the measured limits of the hardware, and the work of a step.

The limits are matrix products, copies and exponentials per second. No step is faster than the longest of
its three products, its memory traffic and its exponentials, each at the highest measured rate.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from fusedface.bench.case import Case
from fusedface.bench.timing import stopwatch
from fusedface.kernels import chunked
from fusedface.kernels.dispatch import without_triton
from fusedface.kernels.products import Products

if TYPE_CHECKING:
    from fusedface.bench.heads.table import Head

REPEATS = 7  # the fastest one counts, as a ceiling
FLOAT32 = 4
CPU_PRODUCT, GPU_PRODUCT = 2048, 8192  # rows, columns and depth of the square product
CPU_COPY, GPU_COPY = 2**28, 2**31  # bytes, far more than any cache
CPU_EXPS = 2**16  # so few numbers that they stay in the cache
GPU_EXPS, EXP_CHAIN, EXP_BLOCK = 2**24, 256, 1024


@dataclass(frozen=True)
class Ceilings:
    """Rates of one machine: flop/s of a large product by precision, bytes/s read and written, exp2/s."""

    flops: dict[str, float]
    bytes: float
    exps: float

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def seconds(self, work: "Work", precision: str) -> float:
        """The least time for this work."""
        products = work.flops / self.flops[precision]
        return max(products, work.bytes / self.bytes, work.exps / self.exps)


@dataclass(frozen=True)
class Work:
    """Flops of matrix products, bytes moved through memory, exponentials."""

    flops: float
    bytes: float
    exps: float


def least_work(case: Case) -> Work:
    """The work that every implementation of forward and backward has to do.

    Three products; embeddings and class centres read once, their gradients written once, in float32.
    """
    cells = case.num_rows * case.num_classes
    operands = (case.num_rows + case.num_classes) * case.dim
    return Work(6.0 * cells * case.dim, 2.0 * FLOAT32 * operands, float(cells))


def work(case: Case, head: "Head", device: torch.device) -> Work:
    """The work of forward and backward: of our head by its schedule, of another head the least possible.

    Our head computes the cosines twice, or once if it keeps B C exponentials of 2 bytes. On a GPU its
    bytes come from `kernels.gpu.traffic`. On a CPU it computes some cosines only once, reads the class
    centres twice and writes their gradient once.
    """
    least = least_work(case)
    if not head.is_fused:
        return least
    if head.keeps_exponentials:  # written once, read by both products of the backward
        return Work(least.flops, least.bytes + 6.0 * least.exps, least.exps)
    flops = 8.0 * case.num_rows * case.num_classes * case.dim
    if device.type != "cuda" or without_triton():
        once = case.num_rows * chunked.classes_computed_once(
            case.num_rows, case.num_classes, case.dim, head.precision
        )
        return Work(
            flops - 2.0 * once * case.dim,
            3.0 * FLOAT32 * case.num_classes * case.dim,
            2.0 * least.exps - once,
        )
    from fusedface.kernels.gpu import traffic

    problem = traffic.Problem(case.num_rows, case.num_classes, case.dim, head.precision)
    passes = [*traffic.forward(problem, True, 0), *traffic.backward(problem)]
    return Work(flops, float(sum(p.bytes for p in passes)), 2.0 * least.exps)


def measure(device: torch.device, precisions: tuple[str, ...]) -> Ceilings:
    """The ceilings of a device for products of operands in these precisions."""
    on_gpu = device.type == "cuda"
    return Ceilings(
        {p: _product_rate(p, GPU_PRODUCT if on_gpu else CPU_PRODUCT, device) for p in precisions},
        _copy_rate(GPU_COPY if on_gpu else CPU_COPY, device),
        _exp_rate_on_gpu(device) if on_gpu and not without_triton() else _exp_rate(device),
    )


def _product_rate(precision: str, size: int, device: torch.device) -> float:
    dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    out = torch.empty_like(a)
    ways: list[Callable[[], object]] = [lambda: torch.mm(a, b, out=out)]
    if device.type == "cpu" and precision == "float32":
        ways.append(lambda: Products(device, precision)(a, b))  # oneDNN may be faster
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        return 2.0 * size**3 / min(_fastest(way, device) for way in ways)
    finally:
        torch.set_float32_matmul_precision(before)


def _copy_rate(num_bytes: int, device: torch.device) -> float:
    source = torch.zeros(num_bytes, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2.0 * num_bytes / _fastest(lambda: target.copy_(source), device)


def _exp_rate(device: torch.device, chain: int = 200) -> float:
    numbers = torch.linspace(-10.0, 0.0, CPU_EXPS, device=device)
    out = torch.empty_like(numbers)

    def run() -> None:
        for _ in range(chain):
            torch.exp2(numbers, out=out)

    return chain * CPU_EXPS / _fastest(run, device)


def _exp_rate_on_gpu(device: torch.device) -> float:
    """Exponentials per second, of a chain in registers; one per load would measure the memory instead."""
    from fusedface.bench.exp_kernel import exp_chain_kernel

    numbers = torch.rand(GPU_EXPS, device=device)
    grid = (GPU_EXPS // EXP_BLOCK,)
    options: dict[str, Any] = {"REPEATS": EXP_CHAIN, "BLOCK": EXP_BLOCK}
    seconds = _fastest(lambda: exp_chain_kernel[grid](numbers, **options), device)
    return GPU_EXPS * EXP_CHAIN / seconds


def _fastest(call: Callable[[], object], device: torch.device, at_most: float = 5.0) -> float:
    """Seconds of the fastest of REPEATS calls after a warm-up; it stops early after `at_most` seconds."""
    watch = stopwatch(device)
    call()
    began, times = time.perf_counter(), []
    while len(times) < REPEATS and (not times or time.perf_counter() - began < at_most):
        times.extend(watch([call]))
    return min(times)


def rates(
    case: Case, head: "Head", device: torch.device, seconds: float, ceilings: Ceilings | None
) -> dict[str, float]:
    """Operations and bytes a second of forward and backward in `seconds`, and their share of the limit."""
    done = work(case, head, device)
    reached = {"flops_per_second": done.flops / seconds, "bytes_per_second": done.bytes / seconds}
    if ceilings is not None:
        reached["of_limit"] = ceilings.seconds(least_work(case), head.precision) / seconds
    return reached
