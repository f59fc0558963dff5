"""How long is the host busy with an eager step of the head, forward and backward?

Nothing is waited for. On a GPU the launches are real; elsewhere a driver starts nothing
(stub_driver.py), and what a real one's launches cost is not in the figures.

Run: python cli.py bench host
"""

import contextlib
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from fusedface.bench.stub_driver import StubDriver, installed
from fusedface.kernels import AdaFace, ArcFace, CosFace, CurricularFace, MagFace, Margin, MVArc
from fusedface.models import MarginHead

MARGINS = (CosFace(), ArcFace(), MVArc(), CurricularFace(), AdaFace(), MagFace())
NUM_ROWS, NUM_CLASSES, DIM = 64, 192, 128  # so small that neither memory nor a GPU keeps the host
WARM_UP = 3  # steps: kernels are compiled, then launches noted, then repeated
BETWEEN = 16  # steps after which the queue of a GPU is let run empty


def run(device: torch.device, steps: int) -> list[dict[str, Any]]:
    """A row a margin: microseconds of the host in the fastest of `steps` steps and in the median.

    On a busy machine others have the processor in between: the fastest is what the work takes.
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
