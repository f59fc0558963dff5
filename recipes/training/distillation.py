"""Distillation: the loss that a step adds, or the class centres that it sets, from a teacher.

x are embeddings of the student, y those of the teacher, all of length 1:

    cosine        mean_i (1 - <P x_i, y_i>)                          P: a learned linear map, or none
    relational    mean_{i != j} (<x_i, x_j> - <y_i, y_j>)^2          D may differ
    adadistill    w_c <- mean_{i of c} (a_i w_c + (1 - a_i) y_i)     a_i = max(0, <x_i, y_i>)

The third is AdaDistill (arXiv:2407.01332): each class centre of the head is an exponential average of the
teacher's embeddings and takes no gradient. While the student is far from the teacher, a_i is small, and the
centre is near the teacher's embedding of the current image. As the student comes closer, the centre becomes
an average over the class. The mean over the images of a person in one batch is this project's addition, so
that their order does not matter. The paper's extra weight of hard samples is left out.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusedface.recipes.configuration.teacher import TeacherOptions
from fusedface.recipes.host.processes import Processes

if TYPE_CHECKING:
    from fusedface.models import MarginHead
    from fusedface.recipes.training.teacher import Teacher

FIGURES = ("distillation_loss", "teacher_cosine")
"""Figures of a lesson in the metrics of a run with a teacher."""


class Lesson(NamedTuple):
    """The contribution of a teacher to one step."""

    loss: Tensor | None = None
    """0-d, already weighted; it is added to the loss of the head. None with "adadistill"."""
    cosine: Tensor | None = None
    """0-d, the mean cosine between student and teacher; None with "relational"."""

    def figures(self) -> dict[str, Tensor]:
        """The values that are not None, detached, by the names of FIGURES."""
        found = zip(FIGURES, self, strict=True)
        return {name: value.detach() for name, value in found if value is not None}


class Distiller(nn.Module):
    """A teacher and a method; its own parameters are trained with the student.

    Args:
        teacher: the teacher's network.
        options: method and weight.
        embedding_dim: D of the student.

    Raises:
        ValueError: D differs from the teacher's, and the method needs equal dimensions.
    """

    def __init__(self, teacher: "Teacher", options: TeacherOptions, embedding_dim: int) -> None:
        super().__init__()
        self.teacher, self.method, self.weight = teacher, options.method, options.weight
        self.projection = None
        if options.projection:
            self.projection = nn.Linear(embedding_dim, teacher.dim, bias=False)
            nn.init.orthogonal_(self.projection.weight)
        elif options.method != "relational" and teacher.dim != embedding_dim:
            raise ValueError(
                f"the teacher's embeddings have {teacher.dim} numbers, the student's {embedding_dim}: "
                f"set backbone.embedding_dim={teacher.dim}, teacher.projection=true (for "
                "teacher.method=cosine), or teacher.method=relational"
            )

    @property
    def places_centres(self) -> bool:
        """Whether the class centres come from the teacher and take no gradient."""
        return self.method == "adadistill"

    def teach(
        self, images: Tensor, embeddings: Tensor, labels: Tensor, head: "MarginHead"
    ) -> Lesson:
        """The lesson of a step; with "adadistill" it also updates the class centres of the head.

        Args:
            images: (B, H, W, 3) uint8 RGB, as the student sees them.
            embeddings: (B, D) of the student, with gradient.
            labels: (B,).
            head: the head, which has the class centres.

        Raises:
            OSError: the teacher cannot embed an image, or its cache is damaged or cannot be written.
        """
        try:
            taught = self.teacher.embed(images).to(embeddings.device)
        except ValueError as error:
            # The run has begun. An OSError makes it report what is saved and how to go on.
            raise OSError(str(error)) from None
        if self.method == "relational":
            return Lesson(self.weight * relational_loss(embeddings, taught))
        learned = embeddings if self.projection is None else self.projection(embeddings)
        cosines = F.cosine_similarity(learned, taught)
        if not self.places_centres:
            return Lesson(self.weight * (1.0 - cosines).mean(), cosines.mean())
        move_centres(head.weight, taught, labels.to(taught.device), cosines.detach())
        return Lesson(cosine=cosines.mean())


def relational_loss(embeddings: Tensor, taught: Tensor) -> Tensor:
    """The "relational" loss of embeddings (B, D) and taught (B, D'), 0-d; 0 for a single image."""
    # Autocast would round the cosines to bfloat16, and their differences and the sum with them.
    with torch.autocast(embeddings.device.type, enabled=False):
        wide = torch.promote_types(embeddings.dtype, taught.dtype)
        ours, theirs = F.normalize(embeddings.to(wide)), F.normalize(taught.to(wide))
        differences = (ours @ ours.T - theirs @ theirs.T).square()
        off_diagonal = ~torch.eye(len(ours), dtype=torch.bool, device=ours.device)
        return (differences * off_diagonal).sum() / max(len(ours) * (len(ours) - 1), 1)


@torch.no_grad()
def move_centres(centres: Tensor, taught: Tensor, labels: Tensor, cosines: Tensor) -> None:
    """AdaDistill's update of the class centres, in place.

    Args:
        centres: w (C, D).
        taught: y (B, D), of length 1.
        labels: (B,), each in [0, C).
        cosines: (B,) between student and teacher.
    """
    kept = cosines.clamp_min(0.0)
    counts = torch.bincount(labels, minlength=len(centres)).to(centres.dtype)
    seen = counts > 0
    share = (
        torch.zeros_like(counts).index_add_(0, labels, kept.to(counts.dtype))[seen] / counts[seen]
    )
    sums = torch.zeros_like(centres)
    sums.index_add_(0, labels, (1.0 - kept)[:, None].to(sums.dtype) * taught.to(sums.dtype))
    centres[seen] = share[:, None] * centres[seen] + sums[seen] / counts[seen, None]


def make_distiller(
    options: TeacherOptions,
    teacher: "Teacher | None",
    embedding_dim: int,
    processes: Processes,
) -> Distiller | None:
    """The distiller of a recipe; None without a teacher.

    Args:
        options: the settings `teacher.*` of the recipe.
        teacher: the opened teacher.
        embedding_dim: D of the student.
        processes: that share the run.

    Raises:
        ValueError: student and teacher do not fit, or settings do not go together.
    """
    if teacher is None:
        return None
    distiller = Distiller(teacher, options, embedding_dim)
    if processes.count > 1 and (distiller.places_centres or options.projection):
        what = "teacher.method 'adadistill'" if distiller.places_centres else "teacher.projection"
        raise ValueError(f"{what} works in a single process; start this run without torchrun")
    return distiller
