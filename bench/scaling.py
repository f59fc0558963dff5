"""How do time and memory grow with the number of classes, and with the batch?

Run: python cli.py bench scaling
"""

import torch

from fusedface.bench.case import Case, fitting_classes

FIRST_CLASSES = 10_000
NUM_ROWS, NUM_CLASSES = 256, 85_742  # fixed while the other grows
ROWS = (64, 128, 256, 512, 1024, 2048, 4096)
HEADS = (
    "fused curricularface",
    "official curricularface",
    "eager curricularface",
    "linear_cross_entropy",
    "liger",
    "cut-cross-entropy",
)


def cases_by_classes(dim: int, most: int | None, device: torch.device) -> list[Case]:
    """C doubles from 10,000 up to `most`; without it, up to the most classes that fit in memory."""
    most = most or fitting_classes(dim, device)
    if most < FIRST_CLASSES:
        raise ValueError(
            f"the largest number of classes must be at least {FIRST_CLASSES:,}, got {most:,}"
        )
    sizes = [FIRST_CLASSES]
    while sizes[-1] * 2 <= most:
        sizes.append(sizes[-1] * 2)
    if sizes[-1] < most:
        sizes.append(most)
    return [Case(NUM_ROWS, size, dim) for size in sizes]


def cases_by_rows(dim: int, most: int) -> list[Case]:
    """B doubles from 64 to `most`."""
    return [Case(size, NUM_CLASSES, dim) for size in ROWS if size <= most]
