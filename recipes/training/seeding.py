"""Seeding of all random generators, and their states as plain values; sums in a fixed order."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy (its legacy global generator) and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  libraries below us may draw from the global generator
    torch.manual_seed(seed)


@contextmanager
def in_fixed_order() -> Iterator[None]:
    """Within the block cuDNN takes only convolutions that sum in a fixed order.

    Else the same seed gives other last bits on a GPU, and a run that goes on is not the run that was not
    stopped.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def rng_state(device: torch.device) -> dict[str, Any]:
    """The states of the generators of a run, of types that a `weights_only` checkpoint may hold.

    The processes of a run draw alike, each on its own device, so the state of one serves all.

    Args:
        device: of the run, in this process.
    """
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": [
            str(name),
            np.asarray(keys).tolist(),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }


def set_rng_state(state: dict[str, Any], device: torch.device, *, is_shared: bool) -> None:
    """Restore the states of `rng_state`; that of a GPU only if both devices are GPUs.

    Args:
        state: it may be of another process.
        device: of the run, in this process.
        is_shared: whether several processes share the run.
    """
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    legacy = (name, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached)
    np.random.set_state(legacy)  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"]:
        torch.cuda.set_rng_state(_of_the_run(state["cuda"], device, is_shared), device)


def _of_the_run(states: list[Tensor], device: torch.device, is_shared: bool) -> Tensor:
    """The state of the run's device; earlier versions saved those of all GPUs of the first process."""
    # Several processes have all drawn as the first one, whose device is GPU 0.
    number = 0 if is_shared else device.index or 0
    return states[number if number < len(states) else 0]
