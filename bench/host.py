"""How much time does the host spend on an eager step of the head, forward and backward?

The host does not wait for the device. On a GPU the kernel launches are real. Elsewhere a stub driver
starts nothing (stub_driver.py), and the figures leave out the cost of real launches.

Run: python cli.py bench host
"""

import contextlib
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from fusedface.bench.stub_driver import StubDriver, installed
from fusedface.kernels import (
    LDAM,
    AdaFace,
    ArcFace,
    CosFace,
    CurricularFace,
    MagFace,
    Margin,
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


def run(device: torch.device, steps: int) -> list[dict[str, Any]]:
    """One row per margin: host time in microseconds, of the fastest of `steps` steps and of the median.

    On a busy machine other programs interrupt a step, so the fastest step shows the work itself.
    """
    stub = device.type != "cuda"
    return [_row(margin, device, steps, stub) for margin in MARGINS]


def _row(margin: Margin, device: torch.device, steps: int, stub: bool) -> dict[str, Any]:
    with installed(StubDriver()) if stub else contextlib.nullcontext():
        head = MarginHead(DIM, NUM_CLASSES, margin, backend="triton", precision="bfloat16")
        head.to(device)
        embeddings = torch.randn(NUM_ROWS, DIM, device=device, requires_grad=True)
        labels = torch.randint(NUM_CLASSES, (NUM_ROWS,), device=device)
        for _ in range(WARM_UP):
            _step(head, embeddings, labels)
        seconds = []
        for i in range(steps):
            if not stub and i % BETWEEN == 0:
                torch.cuda.synchronize(device)
            begin = time.perf_counter()
            _step(head, embeddings, labels)
            seconds.append(time.perf_counter() - begin)
    return {
        "margin": margin.name,
        "driver": "stub" if stub else "CUDA",
        "fastest_us": 1e6 * min(seconds),
        "median_us": 1e6 * statistics.median(seconds),
    }


def _step(head: MarginHead, embeddings: Tensor, labels: Tensor) -> None:
    head.weight.grad = embeddings.grad = None
    head(embeddings, labels).loss.backward()
