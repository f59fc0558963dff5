"""How a run is trained: what it begins with, the optimiser, the schedule, the arithmetic."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from fusedface.recipes.configuration.rules import require, require_choice

Decay = Literal["step", "cosine", "polynomial"]
Arithmetic = Literal["auto", "float32", "bfloat16", "float16"]
Optimizer = Literal["sgd", "adamw"]
Centres = Literal["checkpoint", "mean", "random"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Init:
    """What a run begins with, if not with weights drawn from `train.seed`; `--init` fills it in."""

    checkpoint: str | None = None
    """The path of the checkpoint whose backbone the run begins with; none: drawn weights."""
    sha256: str | None = None
    """SHA-256 of that file, so that the recipe says which weights they are."""
    centres: Centres = "checkpoint"
    """Class centres: "checkpoint" keeps the file's own of people it was trained on and has the others at
    the mean embedding of their images, "mean" has all of them there, "random" draws them."""
    required: bool = False
    """Whether the recipe makes no sense without a checkpoint."""

    def __post_init__(self) -> None:
        require_choice("init.centres", self.centres, get_args(Centres))
        if (self.checkpoint is None) != (self.sha256 is None):
            raise ValueError(
                "init.checkpoint and init.sha256 go together; --init CHECKPOINT fills in both"
            )
        is_digest = self.sha256 is None or re.fullmatch("[0-9a-f]{64}", self.sha256) is not None
        require("init.sha256", self.sha256, is_digest, "64 hexadecimal digits")


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
    """AdamW's beta2, in (0, 1)."""
    weight_decay: float = 4e-5
    """Weight decay of the convolutions."""
    weight_decay_head: float = 4e-4
    """Weight decay of the backbone's embedding layers and of the class centres."""
    fuse_centres: bool = False
    """With "sgd": class centres learn within the backward, chunk by chunk: no memory for a gradient."""
    clip_norm: float = 5.0
    """Largest norm of the backbone's gradient, longer ones are shortened to it; 0 is off."""

    def __post_init__(self) -> None:
        require("optim.lr", self.lr, 0.0 < self.lr < float("inf"), "positive and finite")
        if self.lr_head is not None:
            fits = 0.0 < self.lr_head < float("inf")
            require("optim.lr_head", self.lr_head, fits, "positive and finite")
        require_choice("optim.kind", self.kind, get_args(Optimizer))
        if self.fuse_centres and self.kind != "sgd":
            raise ValueError(f"optim.fuse_centres needs optim.kind 'sgd', got {self.kind!r}")
        require("optim.beta2", self.beta2, 0.0 < self.beta2 < 1.0, "in (0, 1)")
        rule = "at least 2, for batch normalisation"
        require("optim.batch_size", self.batch_size, self.batch_size >= 2, rule)
        require("optim.momentum", self.momentum, 0.0 < self.momentum < 1.0, "in (0, 1)")
        for name in ("weight_decay", "weight_decay_head"):
            value = getattr(self, name)
            require(f"optim.{name}", value, 0.0 <= value < 1.0, "in [0, 1)")
        off_or_more = 0.0 <= self.clip_norm < float("inf")
        require("optim.clip_norm", self.clip_norm, off_or_more, "at least 0")


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
        require("schedule.epochs", self.epochs, 0.0 < self.epochs < float("inf"), "positive")
        if self.steps is not None:
            require("schedule.steps", self.steps, self.steps >= 1)
        require("schedule.warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "at least 0")
        require_choice("schedule.kind", self.kind, get_args(Decay))
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        inside = all(0.0 < fraction < 1.0 for fraction in self.milestones)
        rule = "rising fractions of the run, each in (0, 1)"
        require("schedule.milestones", self.milestones, rising and inside, rule)
        if self.kind == "step" and not self.milestones:
            raise ValueError("schedule.milestones must not be empty for schedule.kind 'step'")
        require("schedule.gamma", self.gamma, 0.0 < self.gamma < 1.0, "in (0, 1)")
        require("schedule.power", self.power, self.power > 0.0, "positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class Train:
    """Seeds, arithmetic, and how often things are written."""

    seed: int = 0
    """Seed of weights, order and augmentation."""
    precision: Arithmetic = "auto"
    """Arithmetic of the backbone's products; "auto" is the fastest that is safe on the device."""
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
    """How many of the newest checkpoints stay, besides the best."""

    def __post_init__(self) -> None:
        require("train.seed", self.seed, 0 <= self.seed < 2**32, "in [0, 2^32)")
        require_choice("train.precision", self.precision, get_args(Arithmetic))
        require("train.freeze", self.freeze, self.freeze >= 0, "at least 0")
        require("train.ema", self.ema, 0.0 <= self.ema < 1.0, "in [0, 1)")
        for name in ("log_every", "checkpoint_every", "keep_checkpoints"):
            require(f"train.{name}", getattr(self, name), getattr(self, name) >= 1)
