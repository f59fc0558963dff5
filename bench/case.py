"""One benchmark case: its sizes, its phase of training, and its inputs."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Inputs = tuple[Tensor, Tensor, Tensor]  # embeddings, weight, labels

PHASES = ("start", "late")
CPU_SHAPES = ("256x10572x128", "256x85742x128", "256x85742x512")
GPU_SHAPES = (
    *CPU_SHAPES,
    "512x85742x128",
    "512x85742x512",
    "1024x360232x512",
    "1024x2000000x512",
    "4096x1000000x512",
    "512xmaxx512",
)
LATE_PULL = 85.0  # weight of the class centre in a late embedding: cosines near 0.65
WEIGHT_STD = 0.01  # of drawn class centres, as in the official heads

# float32 each: class centres, their gradient, the gradient of the reference, momentum, unit rows.
BYTES_PER_WEIGHT = 20
USABLE_SHARE = 0.9  # of the memory that is free now


@dataclass(frozen=True)
class Case:
    """B samples, C classes, D dimensions.

    `phase` "start": random embeddings, t = 0, every negative is hard. "late": embeddings near their
    class centre, t = 0.5, few negatives are hard. Formulations with boolean indexing take longer
    when more negatives are hard; our head does the same work in both phases.
    """

    num_rows: int
    num_classes: int
    dim: int
    phase: str = "start"

    @property
    def t(self) -> float:
        """CurricularFace's t in this phase."""
        return 0.0 if self.phase == "start" else 0.5

    def inputs(self, device: torch.device) -> Inputs:
        """Embeddings (B, D) and weight (C, D), float32, requiring gradients, and labels (B,)."""
        generator = torch.Generator(device).manual_seed(0)
        options = {"generator": generator, "device": device}
        weight = torch.randn(self.num_classes, self.dim, **options).mul_(WEIGHT_STD)
        labels = torch.randint(self.num_classes, (self.num_rows,), **options)
        embeddings = torch.randn(self.num_rows, self.dim, **options)
        if self.phase == "late":
            embeddings += LATE_PULL * weight[labels]
        return embeddings.requires_grad_(), weight.requires_grad_(), labels

    def __str__(self) -> str:
        return f"B={self.num_rows} C={self.num_classes:,} D={self.dim} {self.phase}"


def default_shapes(device: torch.device) -> tuple[str, ...]:
    """The shapes to run on a device; a shape that does not fit its memory gives a row that says so."""
    return GPU_SHAPES if device.type == "cuda" else CPU_SHAPES


def parse_cases(
    shapes: Iterable[str], phases: Iterable[str], device: torch.device | None = None
) -> list[Case]:
    """Cases from texts such as "256x85742x128" and "start" or "late".

    C may be "max": the most classes whose training step fits into the memory of `device`.

    Raises:
        ValueError: a text is not a shape, or not a phase.
    """
    cases = []
    for shape in shapes:
        sizes = shape.lower().replace("maxx", "0x").split("x")
        wants_most = shape.lower().split("x", 1)[-1].startswith("max")
        if len(sizes) != 3 or not all(size.isdigit() for size in sizes):
            raise ValueError(f"a shape must be BxCxD such as 256x85742x128, got {shape!r}")
        rows, classes, dim = map(int, sizes)
        if wants_most and device is not None:
            classes = fitting_classes(dim, device)
        if not (rows > 0 and classes > 1 and dim > 0):
            raise ValueError(f"a shape needs B >= 1, C >= 2 and D >= 1, got {shape!r}")
        for phase in phases:
            if phase not in PHASES:
                raise ValueError(f"a phase must be start or late, got {phase!r}")
            cases.append(Case(rows, classes, dim, phase))
    return cases


def fitting_classes(dim: int, device: torch.device) -> int:
    """The most classes, in thousands, whose training step with the fused head fits in free memory."""
    usable = USABLE_SHARE * free_bytes(device)
    return int(usable / (BYTES_PER_WEIGHT * dim)) // 1000 * 1000


def free_bytes(device: torch.device) -> int:
    """Free memory of the device, or of this machine for the CPU."""
    return _free_on_gpu(device) if device.type == "cuda" else _free_here()


def _free_on_gpu(device: torch.device) -> int:
    """Free memory of a GPU, with what torch holds of it and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _free_here() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        raise ValueError("the free memory of this machine is unknown: give C as a number") from None
    return int(line.split()[1]) * 1024
