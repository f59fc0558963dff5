"""Which faces a run learns from, and which it is verified on."""

from dataclasses import dataclass, field
from pathlib import Path

from fusedface.recipes.configuration.rules import require

SYNTHETIC = "synthetic"


@dataclass(frozen=True, kw_only=True, slots=True)
class Synthetic:
    """The generated people of a run without photos; see `fusedface.data.SyntheticFaces`."""

    num_identities: int = 140
    """People in the training set."""
    images_per_identity: int = 10
    """Images of each of them."""
    difficulty: float = 0.5
    """0 to 1: how much pose, light, occlusion, blur and noise vary, and how alike people look."""
    label_noise: float = 0.0
    """Fraction of the training images that carry another person's label."""
    seed: int = 0
    """Which people are drawn; independent of `train.seed`, so that runs can share a data set."""

    def __post_init__(self) -> None:
        require("data.synthetic.num_identities", self.num_identities, self.num_identities >= 2)
        require(
            "data.synthetic.images_per_identity",
            self.images_per_identity,
            self.images_per_identity >= 1,
        )
        in_unit = 0.0 <= self.difficulty <= 1.0
        require("data.synthetic.difficulty", self.difficulty, in_unit, "in [0, 1]")
        in_unit = 0.0 <= self.label_noise < 1.0
        require("data.synthetic.label_noise", self.label_noise, in_unit, "in [0, 1)")
        require("data.synthetic.seed", self.seed, self.seed >= 0, "at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Where the training images come from and how they are varied."""

    source: str = SYNTHETIC
    """"synthetic", or the path of a folder with a folder per identity, of a RecordIO pack, of an
    LMDB file, or of a list file."""
    synthetic: Synthetic = field(default_factory=Synthetic)
    """Used only with the source "synthetic"."""
    augmentation: str = "flip"
    """A preset of `fusedface.data`."""
    num_workers: int = 0
    """Processes that read image files during the training; the result does not depend on it."""
    skip_bad: bool = False
    """Leave out the broken records of a pack, and list them."""
    resize: bool = False
    """Scale images of other sizes than the network takes, however many; else a few only."""

    def __post_init__(self) -> None:
        require("data.source", self.source, bool(self.source.strip()), "a path or 'synthetic'")
        require("data.num_workers", self.num_workers, self.num_workers >= 0, "at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Verification of pairs of faces, before, during and after training."""

    pairs: tuple[str, ...] = ()
    """Pair lists or .bin files (see `fusedface.data.read_pairs`); without any, see `training.faces`."""
    root: str | None = None
    """The folder that the paths in `pairs` start from; none: that of each list."""
    every: float = 0.0
    """Epochs between evaluations; 0: only before and after training."""
    num_identities: int = 50
    """People of the generated evaluation set, who are none of the training set."""
    images_per_identity: int = 8
    """Images of each of them."""
    num_pairs: int = 2400
    """Pairs drawn from generated or held-out faces, half of them of one person."""

    def __post_init__(self) -> None:
        names = [Path(path).stem for path in self.pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"evaluation.pairs must have different file names, got {twice[0]!r} twice"
            )
        is_length = 0.0 <= self.every < float("inf")
        require("evaluation.every", self.every, is_length, "at least 0")
        enough = self.num_identities >= 20
        require("evaluation.num_identities", self.num_identities, enough, "at least 20")
        enough = self.images_per_identity >= 2
        require("evaluation.images_per_identity", self.images_per_identity, enough, "at least 2")
        require("evaluation.num_pairs", self.num_pairs, self.num_pairs >= 20, "at least 20")
