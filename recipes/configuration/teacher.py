"""A recipe's teacher: a network whose embeddings another one learns from."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from fusedface.recipes.configuration.rules import require, require_choice

Method = Literal["cosine", "relational", "adadistill"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherOptions:
    """Which network teaches, and how; `--teacher` fills in the first two."""

    network: str | None = None
    """Its path: a checkpoint, of a run or a public one, or an ONNX file; none: no teacher."""
    sha256: str | None = None
    """SHA-256 of that file, so that the recipe says which network it is."""
    method: Method = "cosine"
    """"cosine" pulls each embedding to the teacher's of the same image, "relational" the cosines between
    the images of a batch to the teacher's, "adadistill" has class centres that average the teacher's
    embeddings."""
    weight: float = 64.0
    """What the distillation loss is multiplied by before it is added to the loss of the head; not of
    "adadistill", which has only that loss."""
    projection: bool = False
    """For "cosine": a linear map, which learns with the network, takes its embeddings to the teacher's
    length."""
    bgr: bool = False
    """Whether the teacher takes its channels as B, G, R."""
    cache: str | None = None
    """A folder that keeps the teacher's embeddings for later epochs and runs; none: computed every time."""

    @property
    def places_centres(self) -> bool:
        """Whether the class centres come from the teacher, and no gradient moves them."""
        return self.network is not None and self.method == "adadistill"

    def __post_init__(self) -> None:
        if (self.network is None) != (self.sha256 is None):
            raise ValueError(
                "teacher.network and teacher.sha256 go together; --teacher FILE fills in both"
            )
        is_digest = self.sha256 is None or re.fullmatch("[0-9a-f]{64}", self.sha256) is not None
        require("teacher.sha256", self.sha256, is_digest, "64 hexadecimal digits")
        require_choice("teacher.method", self.method, get_args(Method))
        require("teacher.weight", self.weight, self.weight > 0.0, "positive")
        fits = not self.projection or self.method == "cosine"
        require("teacher.projection", self.projection, fits, f"false for method {self.method!r}")
        fits = self.cache is None or bool(self.cache.strip())
        require("teacher.cache", self.cache, fits, "a folder, or none")
