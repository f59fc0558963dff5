"""The settings `optim.*`: the optimiser."""

from dataclasses import dataclass
from typing import Literal, get_args

from fusedface.recipes.configuration.rules import require, require_choice

Optimizer = Literal["sgd", "adamw"]
Stored = Literal["float32", "bfloat16"]


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

    @property
    def centres_factor(self) -> float:
        """The learning rate of the class centres over that of the backbone, at every step."""
        return 1.0 if self.lr_head is None else self.lr_head / self.lr

    def __post_init__(self) -> None:
        require_choice("optim.kind", self.kind, get_args(Optimizer))
        if self.fuse_centres and self.kind != "sgd":
            raise ValueError(f"optim.fuse_centres needs optim.kind 'sgd', got {self.kind!r}")
        self._check_numbers()
        self._check_batch()
        self._check_dtypes()

    def _check_numbers(self) -> None:
        """Check rates, averages, weight decay and the bound on the gradient."""
        require("optim.lr", self.lr, 0.0 < self.lr < float("inf"), "positive and finite")
        if self.lr_head is not None:
            fits = 0.0 < self.lr_head < float("inf")
            require("optim.lr_head", self.lr_head, fits, "positive and finite")
        require("optim.momentum", self.momentum, 0.0 < self.momentum < 1.0, "in (0, 1)")
        require("optim.beta2", self.beta2, 0.0 < self.beta2 < 1.0, "in (0, 1)")
        for name in ("weight_decay", "weight_decay_head"):
            value = getattr(self, name)
            require(f"optim.{name}", value, 0.0 <= value < 1.0, "in [0, 1)")
        off_or_more = 0.0 <= self.clip_norm < float("inf")
        require("optim.clip_norm", self.clip_norm, off_or_more, "at least 0")

    def _check_batch(self) -> None:
        """Check the size of a batch and its parts."""
        rule = "at least 2, for batch normalisation"
        require("optim.batch_size", self.batch_size, self.batch_size >= 2, rule)
        divides = self.accumulate >= 1 and self.batch_size % self.accumulate == 0
        rule = f"at least 1, and a divisor of optim.batch_size {self.batch_size}"
        require("optim.accumulate", self.accumulate, divides, rule)

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
