"""Settings of a benchmark of heads: which of them run, and for how long."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fusedface.bench.heads.table import Head


@dataclass(frozen=True)
class Plan:
    """Settings of a benchmark run."""

    device: torch.device
    rounds: int = 9  # of timing; 0 measures only correctness and memory
    only: Sequence[str] = ()  # run heads whose names contain one of these; empty: all
    skip: Sequence[str] = ()  # but no head whose name contains one of these
    memory: bool = True
    seconds_per_case: float = 120.0  # limit of timing; no round begins after it
    deadline: float = float("inf")  # on the clock of time.perf_counter; no case begins after it
    # Heads that are left out because an earlier process lost its device to them, and why.
    lost: Mapping[str, str] = field(default_factory=dict)


def chosen(everything: "Sequence[Head]", only: Sequence[str], skip: Sequence[str]) -> "list[Head]":
    """Heads whose names contain a text of `only` and none of `skip`, and the first base of each."""
    wanted = [
        head
        for head in everything
        if (not only or any(text in head.name for text in only))
        and not any(text in head.name for text in skip)
    ]
    names = {p.name for p in wanted} | {p.bases[0] for p in wanted}
    return [p for p in everything if p.name in names]


def free(device: torch.device) -> None:
    """Free the tensors of earlier cases, and of failed steps, whose frames hold them."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
