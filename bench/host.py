"""How much time does the host spend on an eager step of the head, forward and backward?

The host does not wait for the device. On a GPU the kernel launches are real. Elsewhere a stub driver
starts nothing (stub_driver.py), and the figures leave out the cost of real launches.

Run: python cli.py bench host
"""

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fusedface.bench.stub_driver import StubDriver, installed
from fusedface.kernels import (
    LDAM,
    AdaFace,
    ArcFace,
    CosFace,
    CurricularFace,
    MagFace,
    MVArc,
)
from fusedface.models import MarginHead

NUM_ROWS, NUM_CLASSES, DIM = 64, 192, 128  # too small to keep the host waiting
COUNTS = tuple(range(1, NUM_CLASSES + 1))  # images of each class
MARGINS = (
    CosFace(), ArcFace(), MVArc(), CurricularFace(), AdaFace(), MagFace(), LDAM(class_counts=COUNTS),
)  # fmt: skip
WARM_UP = 3  # steps: kernels are compiled, then launches noted, then repeated
BETWEEN = 16  # steps between two waits for an empty GPU queue


def run(
    device: torch.device,
    steps: int,
    on_rows: Callable[[list[dict[str, Any]]], None] = lambda rows: None,  # noqa: ARG005
) -> list[dict[str, Any]]:
    """One row per margin: host time in microseconds, of the fastest of `steps` steps and of the median.

    On a busy machine other programs interrupt a step, so the fastest step shows the work itself. The last
    row is what PyTorch's autograd takes for a loss that computes nothing: no head in Python can take less.
    `on_rows` is called after each row, with all so far.
    """
    heads: list[MarginHead | _EmptyHead] = [
        MarginHead(DIM, NUM_CLASSES, margin, backend="triton", precision="bfloat16")
        for margin in MARGINS
    ]
    rows = []
    for head in (*heads, _EmptyHead()):
        name = head.margin.name if isinstance(head, MarginHead) else "an empty function"
        rows.append(_row(name, head, device, steps))
        on_rows(rows)
    return rows


def _row(
    name: str, head: "MarginHead | _EmptyHead", device: torch.device, steps: int
) -> dict[str, Any]:
    stub = device.type != "cuda"
    with installed(StubDriver()) if stub else contextlib.nullcontext():
        head.to(device)
        embeddings = torch.randn(NUM_ROWS, DIM, device=device, requires_grad=True)
        labels = torch.randint(NUM_CLASSES, (NUM_ROWS,), device=device)
        for _ in range(WARM_UP):
            step(head, embeddings, labels)
        seconds = []
        for i in range(steps):
            if not stub and i % BETWEEN == 0:
                torch.cuda.synchronize(device)
            begin = time.perf_counter()
            step(head, embeddings, labels)
            seconds.append(time.perf_counter() - begin)
    return {
        "margin": name,
        "driver": "stub" if stub else "CUDA",
        "fastest_us": 1e6 * min(seconds),
        "median_us": 1e6 * statistics.median(seconds),
    }


def step(head: "MarginHead | _EmptyHead", embeddings: Tensor, labels: Tensor) -> None:
    """A forward and a backward."""
    head.weight.grad = embeddings.grad = None
    head(embeddings, labels).loss.backward()


class _Loss(NamedTuple):
    loss: Tensor


class _EmptyHead(nn.Module):
    """Class centres and a loss of which nothing is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(NUM_CLASSES, DIM))

    def forward(self, embeddings: Tensor, labels: Tensor) -> _Loss:  # noqa: ARG002
        return _Loss(_Empty.apply(embeddings, self.weight))


class _Empty(torch.autograd.Function):
    """Saves both inputs and gives both a gradient, without a value in it."""

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, weight: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(embeddings, weight)
        return embeddings.new_empty(())

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(map(torch.empty_like, ctx.saved_tensors))
