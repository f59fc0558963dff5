"""A recipe that trains in seconds, on a folder of made-up faces: coloured noise, one colour a person."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fusedface.kernels import CurricularFace, HeadOptions
from fusedface.recipes.configuration.recipe import (
    BackboneOptions,
    Data,
    Evaluation,
    Optim,
    Recipe,
    Schedule,
    Train,
)
from fusedface.recipes.training.faces import Faces, open_faces

SIZE = 32
NUM_IDENTITIES, NUM_IMAGES = 6, 6


def write_faces(folder: Path) -> Path:
    """A folder a person under `folder`/train, others under `folder`/test, and `folder`/pairs.csv."""
    rng = np.random.default_rng(0)
    for part, first in (("train", 0), ("test", NUM_IDENTITIES)):
        for identity in range(first, first + NUM_IDENTITIES):
            colour = rng.uniform(40, 215, size=(4, 4, 3)).repeat(8, axis=0).repeat(8, axis=1)
            person = folder / part / f"person{identity:02d}"
            person.mkdir(parents=True)
            for number in range(NUM_IMAGES):
                pixels = (colour + rng.normal(0, 25, colour.shape)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(person / f"{number}.png")
    lines = []
    for fold in range(10):
        one, two = (f"person{NUM_IDENTITIES + (fold + i) % NUM_IDENTITIES:02d}" for i in (0, 1))
        for i in range(NUM_IMAGES - 1):
            lines.append(f"test/{one}/{i}.png,test/{one}/{i + 1}.png,1,{fold}")
            lines.append(f"test/{one}/{i}.png,test/{two}/{i}.png,0,{fold}")
    header = "path1,path2,same,fold\n"
    (folder / "pairs.csv").write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    return folder


def checkpoint_at(out: Path, step: int) -> dict[str, Any]:
    """The checkpoint of a run after so many steps."""
    return torch.load(out / "checkpoints" / f"step-{step:08d}.pt", weights_only=True)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Whether two states have the same tensors, to the bit."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)


def same_end(out: Path, other: Path, step: int) -> None:
    """Two runs have the same weights and the same state of the optimiser, to the bit."""
    ours, theirs = checkpoint_at(out, step), checkpoint_at(other, step)
    for part in ("model", "head"):
        assert all(torch.equal(ours[part][k], v) for k, v in theirs[part].items()), part
    states = [end["optimizer"]["state"] for end in (ours, theirs)]
    for index, state in states[1].items():
        assert all(torch.equal(states[0][index][name], value) for name, value in state.items())


def tiny_recipe(folder: Path) -> Recipe:
    """Twelve steps on the faces of `write_faces`; checkpoints and log lines fall on different steps."""
    return Recipe(
        name="tiny",
        summary="a run of seconds",
        backbone=BackboneOptions(embedding_dim=16, input_size=(SIZE, SIZE), width=0.25),
        head=HeadOptions(margin=CurricularFace(m=0.3, s=16.0)),
        data=Data(source=str(folder / "train")),
        optim=Optim(lr=0.05, batch_size=8),
        schedule=Schedule(epochs=3.0, warmup_steps=2),
        train=Train(seed=5, log_every=2, checkpoint_every=3),
        evaluation=Evaluation(pairs=(str(folder / "pairs.csv"),), every=1.5),
    )


def faces_of(recipe: Recipe, note: Callable[[str], None] = lambda _: None) -> Faces:
    """The faces that a run of a recipe opens, on the CPU."""
    preprocessing = recipe.backbone.build().preprocessing
    return open_faces(recipe.data, recipe.evaluation, preprocessing, torch.device("cpu"), note)


def flat(value, prefix=""):
    """The entries of nested dictionaries and lists, by their path."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {prefix: value}
    return {k: v for key, inner in items for k, v in flat(inner, f"{prefix}/{key}").items()}
