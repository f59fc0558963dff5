"""The settings `init.*`, `optim.*`, `schedule.*` and `train.*`: how a run is trained."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from fusedface.recipes.configuration.rules import require, require_choice

Decay = Literal["step", "cosine", "polynomial"]
Arithmetic = Literal["auto", "float32", "bfloat16", "float16"]
Optimizer = Literal["sgd", "adamw"]
Switch = Literal["auto", "on", "off"]
Stored = Literal["float32", "bfloat16"]
Centres = Literal["checkpoint", "mean", "random"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Init:
    """The checkpoint to begin with, if any; `--init` fills in `checkpoint` and `sha256`."""

    checkpoint: str | None = None
    """Path of the checkpoint whose backbone the run begins with; none draws weights from `train.seed`."""
    sha256: str | None = None
    """SHA-256 of that file in hexadecimal digits; the run refuses any other file."""
    centres: Centres = "checkpoint"
    """Initial class centres, with a checkpoint. "mean": each at the mean embedding of the person's images.
    "checkpoint": the file's own centres for the people that it was trained on, the mean for all others.
    "random": drawn."""
    required: bool = False
    """Whether the run refuses to begin without a checkpoint."""

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
    """The optimiser. Biases, PReLU slopes and normalisation scales have no weight decay."""

    kind: Optimizer = "sgd"
    """"sgd" is SGD with Nesterov momentum; "adamw" is AdamW, with decoupled weight decay."""
    lr: float = 0.1
    """Learning rate after the warm-up."""
    lr_head: float | None = None
    """Learning rate of the class centres after the warm-up; none takes `lr`."""
    batch_size: int = 512
    """Images per step, at least 2; with several processes, of all of them together."""
    accumulate: int = 1
    """Number of equal parts of each batch that go through the backbone one by one, which saves memory. Loss
    and gradient are those of the whole batch; batch normalisation takes the statistics of each part."""
    momentum: float = 0.9
    """Nesterov momentum, or beta1 of AdamW, in (0, 1)."""
    beta2: float = 0.999
    """beta2 of AdamW, in (0, 1)."""
    weight_decay: float = 4e-5
    """Weight decay of the convolutions, in [0, 1)."""
    weight_decay_head: float = 4e-4
    """Weight decay of the embedding layers and of the class centres, in [0, 1)."""
    fuse_centres: bool = False
    """For "sgd": update the class centres inside the backward pass, chunk by chunk. It saves the memory of
    their gradient."""
    centres_dtype: Stored = "float32"
    """With `fuse_centres`: the dtype of the class centres. "bfloat16" halves their memory and that of their
    momentum; each step is rounded up or down at random, so that small steps are not lost."""
    centres_momentum_dtype: Stored | None = None
    """With `fuse_centres`: the dtype of the class centres' momentum; none takes `centres_dtype`."""
    clip_norm: float = 5.0
    """Largest norm of the backbone's gradient; a larger gradient is scaled down to it. 0 is off."""

    def __post_init__(self) -> None:
        require("optim.lr", self.lr, 0.0 < self.lr < float("inf"), "positive and finite")
        if self.lr_head is not None:
            fits = 0.0 < self.lr_head < float("inf")
            require("optim.lr_head", self.lr_head, fits, "positive and finite")
        require_choice("optim.kind", self.kind, get_args(Optimizer))
        if self.fuse_centres and self.kind != "sgd":
            raise ValueError(f"optim.fuse_centres needs optim.kind 'sgd', got {self.kind!r}")
        self._check_dtypes()
        require("optim.beta2", self.beta2, 0.0 < self.beta2 < 1.0, "in (0, 1)")
        rule = "at least 2, for batch normalisation"
        require("optim.batch_size", self.batch_size, self.batch_size >= 2, rule)
        divides = self.accumulate >= 1 and self.batch_size % self.accumulate == 0
        rule = f"at least 1, and a divisor of optim.batch_size {self.batch_size}"
        require("optim.accumulate", self.accumulate, divides, rule)
        require("optim.momentum", self.momentum, 0.0 < self.momentum < 1.0, "in (0, 1)")
        for name in ("weight_decay", "weight_decay_head"):
            value = getattr(self, name)
            require(f"optim.{name}", value, 0.0 <= value < 1.0, "in [0, 1)")
        off_or_more = 0.0 <= self.clip_norm < float("inf")
        require("optim.clip_norm", self.clip_norm, off_or_more, "at least 0")

    def _check_dtypes(self) -> None:
        """Check how the class centres and their momentum are stored."""
        require_choice("optim.centres_dtype", self.centres_dtype, get_args(Stored))
        momentum = self.centres_momentum_dtype or self.centres_dtype
        require_choice("optim.centres_momentum_dtype", momentum, get_args(Stored))
        for name in ("centres_dtype", "centres_momentum_dtype"):
            if getattr(self, name) == "bfloat16" and not self.fuse_centres:
                raise ValueError(
                    f"optim.{name} 'bfloat16' needs optim.fuse_centres: only that update rounds at random"
                )
        if self.centres_dtype == "bfloat16" and momentum != "bfloat16":
            raise ValueError(
                "optim.centres_momentum_dtype must be 'bfloat16' for class centres in bfloat16, "
                f"got {momentum!r}: a saved run could not go on with another"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The length of the run, its learning rate at each step, and its margin at each step."""

    epochs: float = 6.0
    """Length of the run in passes over the training images."""
    steps: int | None = None
    """Length of the run in steps; if set, it replaces `epochs`."""
    warmup_steps: int = 0
    """Number of first steps in which the learning rate rises linearly to `optim.lr`."""
    kind: Decay = "cosine"
    """Shape of the learning rate after the warm-up: "step", "cosine" or "polynomial"."""
    milestones: tuple[float, ...] = ()
    """For kind "step": the points at which the rate falls, as rising fractions of the run in (0, 1)."""
    gamma: float = 0.1
    """For kind "step": the factor on the rate at each milestone, in (0, 1)."""
    power: float = 2.0
    """For kind "polynomial": the exponent p of rate = lr (remaining fraction of the steps)^p; positive."""
    loss: tuple[str, ...] = ()
    """Margins before that of the head. Each entry begins with the fraction of the run at which it ends:
    "0.1 s=16" changes a setting of the head's margin, "0.2 normface" takes another margin. "0.9 cosine>0.25
    normface" ends as soon as a line of metrics has a target cosine above 0.25."""

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
    """Seed, precision, and how often a run logs and saves."""

    seed: int = 0
    """Seed of the initial weights, the order of the images and the augmentation, in [0, 2^32)."""
    precision: Arithmetic = "auto"
    """Precision of the backbone's matrix products; "auto" takes the fastest that is safe on the device."""
    channels_last: bool = True
    """Keep images and convolution weights in channels-last order; faster on CPUs and on tensor cores."""
    compile: Switch = "auto"
    """Compile the backbone's passes, and on a GPU those of the head (torch.compile). "auto": on a GPU, and
    on a CPU if the run is long enough. A compiled step that fails or differs is not used."""
    cuda_graph: Switch = "auto"
    """Record a whole step as a CUDA graph, and replay it. "auto": on a GPU, if nothing stands against it. A
    recorded step that fails or differs is not used."""
    freeze: int = 0
    """Number of first steps in which the backbone is frozen and only the class centres learn."""
    freeze_statistics: bool = False
    """Keep the initial running statistics of batch normalisation; its weights still learn."""
    ema: float = 0.0
    """Decay of an exponential moving average of the backbone's weights, in [0, 1); 0 is off. If it is on,
    the average is the network that is verified and saved."""
    log_every: int = 10
    """Steps between two lines of metrics, at least 1."""
    checkpoint_every: int = 100
    """Steps between two checkpoints, at least 1."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep, at least 1; the best one is always kept."""

    def __post_init__(self) -> None:
        require("train.seed", self.seed, 0 <= self.seed < 2**32, "in [0, 2^32)")
        require_choice("train.precision", self.precision, get_args(Arithmetic))
        require_choice("train.compile", self.compile, get_args(Switch))
        require_choice("train.cuda_graph", self.cuda_graph, get_args(Switch))
        require("train.freeze", self.freeze, self.freeze >= 0, "at least 0")
        require("train.ema", self.ema, 0.0 <= self.ema < 1.0, "in [0, 1)")
        for name in ("log_every", "checkpoint_every", "keep_checkpoints"):
            require(f"train.{name}", getattr(self, name), getattr(self, name) >= 1)
