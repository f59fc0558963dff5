"""The parts of the suite on a GPU: what each runs, and how long it may take."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch

from fusedface.bench.heads.auto_chunked import missing_in_torch

OURS_AND_SMALL = (
    "fused", "official", "partial fc", "pytorch", "linear_cross", "liger", "quack", "cut-",
)  # fmt: skip
# Compiling the eager formulation for a shape takes longer than timing it.
OF_LARGE = (
    "fused curricularface",
    "fused normface",
    "eager",
    "official",
    "linear_cross",
    "liger",
    "quack",
    "cut-",
)
TO_CHUNK = ("auto-chunked", "eager arcface")

KERNEL_SHAPES = (
    "512x85742x128",
    "512x85742x512",
    "256x85742x128",
    "256x10572x128",
    "256x85742x512",
)
LARGE_SHAPES = ("1024x360232x512", "1024x2000000x512", "4096x1000000x512", "512xmaxx512")
ERROR_SHAPES = ("130x3001x128", "63x9970x512")
CHUNKED_SHAPES = ("512x85742x128",)
AHEAD = "ahead"  # the part that only saves time for the others
CHUNKER_SECONDS = 30.0
TUNED_SHAPES = ("512x85742x128", "512x85742x512")


@dataclass(frozen=True)
class Part:
    """A command of `bench` (or pytest), its budget, and the number of cases in its finished file.

    The budgets of all parts together are under nine minutes.
    """

    name: str
    seconds: float
    arguments: tuple[str, ...]
    num_cases: int = 0

    @property
    def is_tests(self) -> bool:
        """Whether the part is pytest, which writes no result file."""
        return self.arguments[0] == "pytest"


def plan(device: torch.device, quick: bool, skip: Sequence[str] = ()) -> list[Part]:
    """The parts, the most important first; `skip` as in `bench kernels`.

    On a GPU the kernels are compiled before, as compiling them one by one takes longer than all the rest.
    """
    skipped = [word for text in skip for word in ("--skip", text)]
    small = ("32x500x32", "32x800x64") if quick else None
    shapes = {
        "errors": small or ERROR_SHAPES,
        "kernels": small or KERNEL_SHAPES,
        "large": small or LARGE_SHAPES,
        "chunker": small or CHUNKED_SHAPES,
    }
    tiny = ("--batch", "8", "--classes", "6", "--size", "32") if quick else ()
    with_chunker = not missing_in_torch()
    parts = [
        Part("tests", 90.0, _tests()),
        _kernels(
            "errors", 30.0, shapes["errors"],
            "--rounds", "0", "--no-memory", "--skip", "auto-chunked",
            *_only(OURS_AND_SMALL), *skipped,
        ),
        _kernels(
            "kernels", 120.0 - CHUNKER_SECONDS * with_chunker, shapes["kernels"],
            "--rounds", "15", "--seconds", "3", "--skip", "auto-chunked", *skipped,
        ),
        _trained_step(quick, tiny),
        Part("host", 15.0, ("host", "--steps", "10" if quick else "500")),
        _kernels(
            "large", 45.0, shapes["large"],
            "--rounds", "9", "--seconds", "3", "--skip", "compiled", "--skip", "auto-chunked",
            *_only(OF_LARGE), *skipped,
        ),
        _convergence(quick, tiny),
    ]  # fmt: skip
    if with_chunker:
        parts.append(
            _kernels(
                "chunker", CHUNKER_SECONDS, shapes["chunker"], "--rounds", "9", "--seconds", "3",
                *_only(TO_CHUNK), *skipped,
            )
        )  # fmt: skip
    if device.type == "cuda":
        shapes_to_tune = [word for shape in TUNED_SHAPES for word in ("--shape", shape)]
        parts.insert(2, Part("tune", 35.0, ("tune", *shapes_to_tune)))
        parts.insert(0, Part("unknowns", 30.0, ("unknowns",)))
        parts.insert(0, Part(AHEAD, 60.0, _ahead(shapes)))
    if quick:  # tiny shapes, also on a machine where starting takes longest
        parts = [replace(part, seconds=3.0 * part.seconds) for part in parts]
    return parts


def _trained_step(quick: bool, tiny: Sequence[str]) -> Part:
    short = ("--rounds", "2", "--no-compiled") if quick else ()
    return Part("step", 70.0, ("trained-step", *tiny, *short))


def _convergence(quick: bool, tiny: Sequence[str]) -> Part:
    steps = ("--steps", "3") if quick else ()
    return Part("convergence", 35.0, ("convergence", "--minutes", "0.12", *steps, *tiny))


def _ahead(shapes: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The command that compiles the kernels of the other parts; those of most classes are like others."""
    names = [shape for part in ("kernels", "large", "errors") for shape in shapes[part]]
    found = [
        word for shape in dict.fromkeys(names) if "max" not in shape for word in ("--shape", shape)
    ]
    tuned = [word for shape in TUNED_SHAPES for word in ("--tune", shape)]
    return ("ahead", *found, *tuned)


def _tests() -> tuple[str, ...]:
    """The command of the tests."""
    words = "pytest tests/kernels/gpu tests/recipes/test_device_run.py -m gpu -vv --no-header"
    words += " -p no:cacheprovider"
    if find_spec("xdist") is not None:
        # Compiling on the host takes most of the time. More processes take too much of the GPU's memory.
        words += f" -n {min(8, os.cpu_count() or 1)}"
    return tuple(words.split())


def _kernels(name: str, seconds: float, shapes: Sequence[str], *options: str) -> Part:
    repeated = [word for shape in shapes for word in ("--shape", shape)]
    num_cases = 2 * len(shapes)  # both phases
    return Part(name, seconds, ("kernels", *repeated, *options), num_cases)


def _only(texts: Sequence[str]) -> list[str]:
    return [word for text in texts for word in ("--only", text)]
