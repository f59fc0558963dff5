"""The settings `data.*`: the faces to train on."""

from dataclasses import dataclass, field

from fusedface.recipes.configuration.rules import require, require_at_least

SYNTHETIC = "synthetic"


@dataclass(frozen=True, kw_only=True, slots=True)
class Synthetic:
    """Generated faces, for runs without photos; see `fusedface.data.SyntheticFaces`."""

    num_identities: int = 140
    """Number of people in the training set, at least 2."""
    images_per_identity: int = 10
    """Number of training images of each person."""
    difficulty: float = 0.5
    """How much pose, light, occlusion, blur and noise vary, and how alike people look, in [0, 1]."""
    label_noise: float = 0.0
    """Fraction of the training images with the label of another person, in [0, 1)."""
    seed: int = 0
    """Seed of the generated people; separate from `train.seed`, so that runs can share a data set."""

    def __post_init__(self) -> None:
        require_at_least(self, "data.synthetic", num_identities=2, images_per_identity=1, seed=0)
        in_unit = 0.0 <= self.difficulty <= 1.0
        require("data.synthetic.difficulty", self.difficulty, in_unit, "in [0, 1]")
        in_unit = 0.0 <= self.label_noise < 1.0
        require("data.synthetic.label_noise", self.label_noise, in_unit, "in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """The source of the training images and their augmentation."""

    source: str = SYNTHETIC
    """"synthetic" generates faces. Otherwise a path: a folder with one folder per person, a RecordIO pack,
    an LMDB file, or a list file."""
    synthetic: Synthetic = field(default_factory=Synthetic)
    """The generated faces; used only with `source` "synthetic"."""
    augmentation: str = "flip"
    """Name of an augmentation preset of `fusedface.data`."""
    num_workers: int = 0
    """Number of processes that read images; 0 reads in the training process. It does not change results."""
    skip_bad: bool = False
    """Leave out the broken records of a RecordIO pack or LMDB file, and list them."""
    resize: bool = False
    """Scale all images whose size differs from `input_size`; false refuses a source where more than 5 %
    differ."""

    def __post_init__(self) -> None:
        require("data.source", self.source, bool(self.source.strip()), "a path or 'synthetic'")
        require_at_least(self, "data", num_workers=0)
