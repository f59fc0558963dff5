"""The settings `train.*`: seed, precision, and how often a run logs and saves."""

from dataclasses import dataclass
from typing import Literal, get_args

from fusedface.recipes.configuration.rules import require, require_at_least, require_choice

Arithmetic = Literal["auto", "float32", "bfloat16", "float16"]
Switch = Literal["auto", "on", "off"]


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
    """Compile the backbone's passes, and on a GPU those of the head (torch.compile). "auto": on a GPU; on
    a CPU without compiled loops, if the run is long enough. A compiled step that fails or differs is not
    used."""
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
        require("train.ema", self.ema, 0.0 <= self.ema < 1.0, "in [0, 1)")
        require_at_least(
            self, "train", freeze=0, log_every=1, checkpoint_every=1, keep_checkpoints=1
        )
