"""The settings `evaluation.*`: the faces to verify on."""

from dataclasses import dataclass
from pathlib import Path

from fusedface.recipes.configuration.rules import require, require_at_least


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Verification on pairs of faces, before, during and after training."""

    pairs: tuple[str, ...] = ()
    """Pair lists or .bin files (see `fusedface.data.read_pairs`). Without any, pairs are drawn from
    generated people or from people held out of the training set (see `training.faces`)."""
    root: str | None = None
    """Folder that the paths in the pair lists are relative to; none takes the folder of each list."""
    every: float = 0.0
    """Epochs between evaluations; 0 evaluates only before and after training."""
    num_identities: int = 50
    """Number of people in the generated evaluation set, at least 20; none is in the training set."""
    images_per_identity: int = 8
    """Number of images of each person of the generated evaluation set, at least 2."""
    num_pairs: int = 2400
    """Number of pairs drawn from generated or held-out faces, at least 20; half are genuine pairs."""

    def __post_init__(self) -> None:
        _check_different(self.pairs)
        is_length = 0.0 <= self.every < float("inf")
        require("evaluation.every", self.every, is_length, "at least 0")
        require_at_least(self, "evaluation", num_identities=20, images_per_identity=2, num_pairs=20)


def _check_different(pairs: tuple[str, ...]) -> None:
    """Raise a ValueError if two lists have one file name, because figures are named after it."""
    names = [Path(path).stem for path in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"evaluation.pairs must have different file names, got {twice[0]!r} twice")
