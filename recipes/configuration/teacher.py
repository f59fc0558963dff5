"""The settings `teacher.*`: the network to distil from, and how."""

from dataclasses import dataclass
from typing import Literal, get_args

from fusedface.recipes.configuration.rules import require, require_choice, require_file

Method = Literal["cosine", "relational", "adadistill"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherOptions:
    """The network to distil from, and the method; `--teacher` fills in `network` and `sha256`."""

    network: str | None = None
    """Path of the teacher: our checkpoint, a public one, or an ONNX file; none trains without a teacher."""
    sha256: str | None = None
    """SHA-256 of that file in hexadecimal digits; the run refuses any other file."""
    method: Method = "cosine"
    """"cosine" pulls each embedding to the teacher's embedding of the same image. "relational" pulls the
    cosines between the images of a batch to the teacher's. "adadistill" sets each class centre to a moving
    average of the teacher's embeddings."""
    weight: float = 64.0
    """Factor on the distillation loss, which is added to the loss of the head; positive. "adadistill" adds
    no loss and ignores it."""
    hard_samples: bool = True
    """For "adadistill": an image that the teacher places far from its class centre moves it more."""
    projection: bool = False
    """For "cosine": train a linear map from the student's embedding dimension to the teacher's."""
    bgr: bool = False
    """Whether the teacher takes the channels in the order B, G, R."""
    cache: str | None = None
    """Folder that keeps the teacher's embeddings for later epochs and runs; none keeps nothing."""

    @property
    def places_centres(self) -> bool:
        """Whether the class centres come from the teacher and take no gradient."""
        return self.network is not None and self.method == "adadistill"

    def __post_init__(self) -> None:
        require_file(
            "teacher.network", self.network, "teacher.sha256", self.sha256, "--teacher FILE"
        )
        require_choice("teacher.method", self.method, get_args(Method))
        require("teacher.weight", self.weight, self.weight > 0.0, "positive")
        fits = not self.projection or self.method == "cosine"
        require("teacher.projection", self.projection, fits, f"false for method {self.method!r}")
        fits = self.cache is None or bool(self.cache.strip())
        require("teacher.cache", self.cache, fits, "a folder, or none")
