"""The parts of a recipe: frozen records that say everything that decides a run's result."""

import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from fusedface.kernels import HeadOptions
from fusedface.models import Backbone, create
from fusedface.models.blocks import Activation
from fusedface.models.preprocessing import Crop, Flip
from fusedface.recipes.configuration.loss_stages import stages_of

Decay = Literal["step", "cosine", "polynomial"]
Arithmetic = Literal["auto", "float32", "bfloat16", "float16"]
Optimizer = Literal["sgd", "adamw"]
Centres = Literal["checkpoint", "mean", "random"]

SYNTHETIC = "synthetic"
NAME = re.compile(r"[^\W_](?:[\w .+=@()-]*[\w+=@()-])?")
LONGEST_NAME = 100
LARGEST_COUNT = 10**9
"""Of any setting that counts something; more is a slip, and would overflow what it is multiplied with."""
LARGEST_NUMBER = 1e9
"""Of any other."""
LARGEST_GREY = 1e4
"""Of means and deviations: images have 256 grey levels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneOptions:
    """The network, by its name in `fusedface.models.MODELS`, and how its images are prepared.

    What is none, or false, is as the network itself has it.
    """

    name: str = "mobilefacenet"
    """A key of `fusedface.models.MODELS`."""
    embedding_dim: int = 128
    """D, the length of an embedding."""
    input_size: tuple[int, int] = (112, 112)
    """Height and width in pixels, multiples of 16."""
    width: float = 1.0
    """Multiplies the channel counts."""
    activation: Activation | None = None
    """Of mobilefacenet: after its convolutions."""
    stem_activation: Activation | None = None
    """Of mobilefacenet: between the first convolution and the bottlenecks; none: `activation`."""
    stem_pointwise: bool = False
    """Of mobilefacenet: a 1x1 convolution after the depthwise one of the stem."""
    embedding_bias: bool = False
    """Of mobilefacenet: a bias in the embedding convolution."""
    mean: tuple[float, float, float] | None = None
    """Subtracted from R, G and B, in grey levels."""
    std: tuple[float, float, float] | None = None
    """Divides R, G and B after that, in grey levels."""
    flip: Flip | None = None
    """How verification joins the features of both mirror images."""
    crop: Crop | None = None
    """What is done with images larger than `input_size`: "center" cuts, "none" refuses them."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name) or ()
            fits = all(abs(value) <= LARGEST_GREY for value in values)
            _require(f"backbone.{name}", values, fits, f"at most {LARGEST_GREY:g} each")
        _check_backbone(self)

    def build(self) -> Backbone:
        """The network, with freshly drawn weights and its preprocessing."""
        model = create(
            self.name,
            embedding_dim=self.embedding_dim,
            input_size=self.input_size,
            width=self.width,
            **self._given(OPTIONS),
        )
        model.preprocessing = replace(model.preprocessing, **self._given(PREPARATION))
        return model

    def _given(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name))}


OPTIONS = ("activation", "stem_activation", "stem_pointwise", "embedding_bias")
"""Of `fusedface.models.create`, beyond those that every network has."""
PREPARATION = ("mean", "std", "flip", "crop")
"""Of `fusedface.models.Preprocessing`."""


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
        _require("data.synthetic.num_identities", self.num_identities, self.num_identities >= 2)
        _require(
            "data.synthetic.images_per_identity",
            self.images_per_identity,
            self.images_per_identity >= 1,
        )
        in_unit = 0.0 <= self.difficulty <= 1.0
        _require("data.synthetic.difficulty", self.difficulty, in_unit, "in [0, 1]")
        in_unit = 0.0 <= self.label_noise < 1.0
        _require("data.synthetic.label_noise", self.label_noise, in_unit, "in [0, 1)")
        _require("data.synthetic.seed", self.seed, self.seed >= 0, "at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Where the training images come from and how they are varied."""

    source: str = SYNTHETIC
    """"synthetic", or the path of a folder with a folder per identity, of a RecordIO pack, of an
    LMDB file, or of a list file."""
    synthetic: Synthetic = field(default_factory=Synthetic)
    """Used with the source "synthetic" alone."""
    augmentation: str = "flip"
    """A preset of `fusedface.data`."""
    num_workers: int = 0
    """Processes that read image files beside the training; the result does not depend on it."""
    skip_bad: bool = False
    """Leave out the broken records of a pack, and list them."""
    resize: bool = False
    """Scale images of other sizes than the network takes, however many; else a few only."""

    def __post_init__(self) -> None:
        _require("data.source", self.source, bool(self.source.strip()), "a path or 'synthetic'")
        _require("data.num_workers", self.num_workers, self.num_workers >= 0, "at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Optim:
    """The optimiser; biases, slopes and scales are never decayed."""

    kind: Optimizer = "sgd"
    """SGD with Nesterov momentum, or AdamW, which decays weights apart from their gradient."""
    lr: float = 0.1
    """Learning rate after the warm-up."""
    lr_head: float | None = None
    """That of the class centres; none: `lr`."""
    batch_size: int = 512
    """Images a step."""
    momentum: float = 0.9
    """Nesterov momentum, or AdamW's beta1, in (0, 1)."""
    beta2: float = 0.999
    """Of AdamW, in (0, 1)."""
    weight_decay: float = 4e-5
    """Of the convolutions."""
    weight_decay_head: float = 4e-4
    """Of the backbone's embedding layers and of the class centres."""
    clip_norm: float = 5.0
    """Largest norm of the backbone's gradient, longer ones are shortened to it; 0 is off."""

    def __post_init__(self) -> None:
        _require("optim.lr", self.lr, 0.0 < self.lr < float("inf"), "positive and finite")
        if self.lr_head is not None:
            fits = 0.0 < self.lr_head < float("inf")
            _require("optim.lr_head", self.lr_head, fits, "positive and finite")
        _require_choice("optim.kind", self.kind, get_args(Optimizer))
        _require("optim.beta2", self.beta2, 0.0 < self.beta2 < 1.0, "in (0, 1)")
        rule = "at least 2, for batch normalisation"
        _require("optim.batch_size", self.batch_size, self.batch_size >= 2, rule)
        _require("optim.momentum", self.momentum, 0.0 < self.momentum < 1.0, "in (0, 1)")
        for name in ("weight_decay", "weight_decay_head"):
            value = getattr(self, name)
            _require(f"optim.{name}", value, 0.0 <= value < 1.0, "in [0, 1)")
        off_or_more = 0.0 <= self.clip_norm < float("inf")
        _require("optim.clip_norm", self.clip_norm, off_or_more, "at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How long to train, and how the learning rate and the loss go from the start to the end."""

    epochs: float = 6.0
    """Length in passes over the training images."""
    steps: int | None = None
    """Length in steps, instead of `epochs`."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises linearly to `optim.lr`."""
    kind: Decay = "cosine"
    """What comes after the warm-up."""
    milestones: tuple[float, ...] = ()
    """For kind "step": where the rate falls, as rising fractions of the run."""
    gamma: float = 0.1
    """For kind "step": the factor at each milestone."""
    power: float = 2.0
    """For kind "polynomial": the rate is proportional to (what is left)^power."""
    loss: tuple[str, ...] = ()
    """Losses before that of the head, each until a fraction of the run: "0.1 s=16" changes settings of the
    head's margin, "0.2 normface" takes another one; see `loss_stages.py`."""

    def __post_init__(self) -> None:
        _require("schedule.epochs", self.epochs, 0.0 < self.epochs < float("inf"), "positive")
        if self.steps is not None:
            _require("schedule.steps", self.steps, self.steps >= 1)
        _require("schedule.warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "at least 0")
        _require_choice("schedule.kind", self.kind, get_args(Decay))
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        inside = all(0.0 < fraction < 1.0 for fraction in self.milestones)
        rule = "rising fractions of the run, each in (0, 1)"
        _require("schedule.milestones", self.milestones, rising and inside, rule)
        if self.kind == "step" and not self.milestones:
            raise ValueError("schedule.milestones must not be empty for schedule.kind 'step'")
        _require("schedule.gamma", self.gamma, 0.0 < self.gamma < 1.0, "in (0, 1)")
        _require("schedule.power", self.power, self.power > 0.0, "positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class Train:
    """Seeds, arithmetic, and how often things are written."""

    seed: int = 0
    """Of weights, order and augmentation."""
    precision: Arithmetic = "auto"
    """Of the backbone's products; "auto" is the fastest that is safe on the device."""
    channels_last: bool = True
    """Memory order of images and convolutions; faster on CPUs and on GPUs with tensor cores."""
    freeze: int = 0
    """So many steps at the start only the class centres learn; the backbone stays as it is."""
    freeze_statistics: bool = False
    """Batch normalisation keeps the statistics that the backbone begins with; its weights still learn."""
    ema: float = 0.0
    """Decay of an exponential average of the backbone's weights, which is then what is verified and saved
    as the network; 0 is off."""
    log_every: int = 10
    """Steps between lines of metrics."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay, beside the best."""

    def __post_init__(self) -> None:
        _require("train.seed", self.seed, 0 <= self.seed < 2**32, "in [0, 2^32)")
        _require_choice("train.precision", self.precision, get_args(Arithmetic))
        _require("train.freeze", self.freeze, self.freeze >= 0, "at least 0")
        _require("train.ema", self.ema, 0.0 <= self.ema < 1.0, "in [0, 1)")
        for name in ("log_every", "checkpoint_every", "keep_checkpoints"):
            _require(f"train.{name}", getattr(self, name), getattr(self, name) >= 1)


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
        _require("evaluation.every", self.every, is_length, "at least 0")
        enough = self.num_identities >= 20
        _require("evaluation.num_identities", self.num_identities, enough, "at least 20")
        enough = self.images_per_identity >= 2
        _require("evaluation.images_per_identity", self.images_per_identity, enough, "at least 2")
        _require("evaluation.num_pairs", self.num_pairs, self.num_pairs >= 20, "at least 20")


@dataclass(frozen=True, kw_only=True, slots=True)
class Init:
    """What a run begins with, if not with weights drawn from `train.seed`; `--init` fills it in."""

    checkpoint: str | None = None
    """The path of the checkpoint whose backbone the run begins with; none: drawn weights."""
    sha256: str | None = None
    """Of that file, so that the recipe says which weights they are."""
    centres: Centres = "checkpoint"
    """Class centres: "checkpoint" keeps the file's own of people it was trained on and has the others at
    the mean embedding of their images, "mean" has all of them there, "random" draws them."""
    required: bool = False
    """Whether the recipe makes no sense without a checkpoint."""

    def __post_init__(self) -> None:
        _require_choice("init.centres", self.centres, get_args(Centres))
        if (self.checkpoint is None) != (self.sha256 is None):
            raise ValueError(
                "init.checkpoint and init.sha256 go together; --init CHECKPOINT fills in both"
            )
        is_digest = self.sha256 is None or re.fullmatch("[0-9a-f]{64}", self.sha256) is not None
        _require("init.sha256", self.sha256, is_digest, "64 hexadecimal digits")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One experiment. A variant of it is `dataclasses.replace(recipe, ...)`."""

    name: str
    """What `recipe run` calls it."""
    summary: str
    """One line on what it trains and why."""
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    """The network."""
    init: Init = field(default_factory=Init)
    """What it begins with."""
    head: HeadOptions = field(default_factory=HeadOptions)
    """The loss."""
    data: Data = field(default_factory=Data)
    """The training images."""
    optim: Optim = field(default_factory=Optim)
    """The optimiser."""
    schedule: Schedule = field(default_factory=Schedule)
    """Length and learning rate."""
    train: Train = field(default_factory=Train)
    """Seed, arithmetic, output."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    """Verification."""

    def __post_init__(self) -> None:
        rule = (
            f"at most {LONGEST_NAME} bytes of letters, digits, spaces and . _ - + = @ ( ), beginning with "
            "a letter or digit: it names folders"
        )
        fits = NAME.fullmatch(self.name) and len(self.name.encode()) <= LONGEST_NAME
        _require("name", self.name, bool(fits), rule)
        is_number = self.head.reduction != "none"
        _require("head.reduction", self.head.reduction, is_number, "'mean' or 'sum' to train with")
        stages_of(self.schedule.loss, self.head.margin)


@lru_cache
def _check_backbone(options: BackboneOptions) -> None:
    """Raise the ValueError of whatever the backbone itself does not accept."""
    # Without its weights: reading a recipe must neither fill the memory nor move anyone's random numbers.
    with torch.device("meta"):
        options.build()


def _require_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    _require(key, value, value in choices, f"one of {', '.join(choices)}")


def _require(key: str, value: object, holds: bool, rule: str = "at least 1") -> None:
    """Raise ValueError naming key, rule and value unless `holds` and a number is not beyond all measure."""
    if not holds:
        raise ValueError(f"{key} must be {rule}, got {value!r}")
    largest = LARGEST_COUNT if isinstance(value, int) else LARGEST_NUMBER
    if key != "train.seed" and isinstance(value, int | float) and value > largest:
        raise ValueError(f"{key} must be at most {largest:,.0f}, got {value!r}")
