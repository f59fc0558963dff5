"""The settings `init.*`: the weights that a run begins with."""

from dataclasses import dataclass
from typing import Literal, get_args

from fusedface.recipes.configuration.rules import require_choice, require_file

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
        require_file(
            "init.checkpoint", self.checkpoint, "init.sha256", self.sha256, "--init CHECKPOINT"
        )
