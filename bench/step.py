"""How fast is a whole training step, and how much of it is the head?

Run: python cli.py bench step
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from fusedface.bench.memory import peak_mib_of
from fusedface.bench.timing import alternate, quartiles
from fusedface.bench.training_steps import HEADS, Setup, TrainingSteps

MODELS = ("mobilefacenet", "iresnet18")
TORCHS_LAYERS = "fused, layers by torch"
"""On CPUs: the fused head on a backbone without the compiled loops of `models/loops`."""
COMPILED = "fused, compiled backbone"
PARTS = ("data", "backbone", "head", "optimizer")


def run(
    setup: Setup,
    device: torch.device,
    rounds: int,
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005
    *,
    compiled: bool = False,
) -> list[dict[str, Any]]:
    """Time steps with the fused and the eager head in turn, on one network and one set of class centres.

    Args:
        setup: the training to time.
        device: where it runs.
        rounds: timed steps of each.
        note: called with what is being done.
        compiled: also time steps with the fused head and the backbone under torch.compile.

    Returns:
        One row per head, and on CPUs one without compiled layers: images per second and the share of each
        part, medians with quartiles; on a GPU also the peak of memory beyond weights and momentum. Images
        come from memory; `bench data` measures other sources.
    """
    note(f"{setup}: rendering faces")
    steps = TrainingSteps(setup, device)
    note(f"{setup}: timing")
    runs: dict[str, Callable[[], dict[str, float]]] = {
        name: partial(steps.timed, steps.heads[name]) for name in HEADS
    }
    if device.type == "cpu":
        runs[TORCHS_LAYERS] = steps.timed_with_torchs_layers
    if compiled:
        network = torch.compile(steps.model, dynamic=False)
        runs[COMPILED] = partial(steps.timed, steps.heads["fused"], network)
    for warm_up in runs.values():
        warm_up()
    peaks = {name: peak_mib_of(call, device) for name, call in runs.items()}
    figures = alternate(runs, rounds)
    return [_row(setup, steps, name, figures, peaks[name]) for name in runs]


def _row(
    setup: Setup,
    steps: TrainingSteps,
    head: str,
    figures: dict[str, dict[str, list[float]]],
    peak_mib: float | None,
) -> dict[str, Any]:
    seconds = figures[head]
    fused = figures["fused"]["step"]
    ratios = [own / ours for own, ours in zip(seconds["step"], fused, strict=True)]
    rates = [setup.num_rows / s for s in seconds["step"]]
    mid = {part: quartiles(seconds[part])[1] for part in PARTS}
    return {
        "model": setup.model,
        "head": head,
        "num_rows": setup.num_rows,
        "num_classes": setup.num_classes,
        "size": setup.size,
        "precision": steps.precision.name,
        "images_per_second": quartiles(rates),
        "ms": {part: 1e3 * value for part, value in mid.items()},
        "head_share": mid["head"] / sum(mid.values()),
        "time_over_fused": quartiles(ratios),
        "peak_extra_mib": peak_mib,
    }
