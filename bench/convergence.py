"""Does training with the fused head give the same losses and accuracy as with the eager head?

Run: python cli.py bench convergence
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fusedface.bench.training_steps import HEADS, Setup, TrainingSteps
from fusedface.data import SyntheticFaces, from_index_pairs, synthetic_pairs
from fusedface.recipes.configuration.optim import Optim
from fusedface.recipes.evaluation.evaluate import evaluate_pairs

RECENT = 20  # number of steps over which a loss is averaged
NUM_TESTED, IMAGES_OF_EACH, NUM_PAIRS = 30, 6, 600  # of the evaluation set


@dataclass(frozen=True)
class Training:
    """Settings of a short run: `num_steps` steps at a constant learning rate."""

    setup: Setup
    num_steps: int
    lr: float = 0.1
    seconds: float = float("inf")  # time limit for each head


def run(
    training: Training,
    device: torch.device,
    note: Callable[[str], None] = lambda text: None,  # noqa: ARG005
) -> list[dict[str, Any]]:
    """Train with each head from the same weights on the same batches.

    Returns:
        One row per head: its losses, its mean loss over RECENT steps, its accuracy on pairs of other
        people, images per second. The RECENT steps are the last ones that both heads reached.
    """
    rows = []
    for head in HEADS:
        note(f"{training.setup}: training with the {head} head")
        rows.append(_train(head, training, device))
    shared = min(len(row["losses"]) for row in rows)
    for row in rows:
        last = row["losses"][max(0, shared - RECENT) : shared]
        row["last_loss"] = sum(last) / len(last)
    return rows


def _train(head: str, training: Training, device: torch.device) -> dict[str, Any]:
    setup = training.setup
    steps = TrainingSteps(setup, device, Optim(batch_size=setup.num_rows, lr=training.lr))
    steps.model.train()
    losses: list[torch.Tensor] = []

    def loss(embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        value = steps.heads[head](embeddings, labels)
        losses.append(value.detach())
        return value

    steps.timed(loss)  # on a GPU it waits for compilers, for longer than all the others take
    began = time.perf_counter()
    while len(losses) < training.num_steps and time.perf_counter() - began < training.seconds:
        steps.timed(loss)
    seconds = time.perf_counter() - began
    return {
        "head": head,
        "model": setup.model,
        "num_rows": setup.num_rows,
        "num_classes": setup.num_classes,
        "precision": steps.precision.name,
        "losses": [round(value, 4) for value in torch.stack(losses).tolist()],
        "accuracy": _accuracy(steps, setup),
        "images_per_second": (len(losses) - 1) * setup.num_rows / seconds,
    }


def _accuracy(steps: TrainingSteps, setup: Setup) -> float:
    people = SyntheticFaces(
        NUM_TESTED,
        IMAGES_OF_EACH,
        image_size=(setup.size, setup.size),
        first_identity=setup.num_classes,
    )
    pairs = from_index_pairs(people, *synthetic_pairs(people, NUM_PAIRS))
    return evaluate_pairs(steps.model, pairs).accuracy
