"""Distillation: the loss that a step adds, or the class centres that it sets, from a teacher.

x are embeddings of the student, y those of the teacher, all of length 1:

    cosine        mean_i (1 - <P x_i, y_i>)                          P: a learned linear map, or none
    relational    mean_{i != j} (<x_i, x_j> - <y_i, y_j>)^2          D may differ
    adadistill    w_c <- mean_{i of c} (a_i w_c + (1 - a_i) y_i)     a_i = <x_i, y_i>+ cos(w_c, y_i)+

The third is AdaDistill (arXiv:2407.01332): each class centre of the head is an exponential average of the
teacher's embeddings and takes no gradient. z+ is max(0, z). While the student is far from the teacher, a_i
is small, and the centre is near the teacher's embedding of the current image. As the student comes closer,
the centre becomes an average over the class. The factor cos(w_c, y_i)+ is the paper's weight of hard
samples: an image that the teacher places far from the centre moves it more. `hard_samples=False` leaves
the factor out. The mean over the images of a person in one batch is this project's addition, so that their
order does not matter.
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
        processes: the processes that share each step; None for a single one.

    Raises:
        ValueError: D differs from the teacher's, and the method needs equal dimensions.
    """

    def __init__(
        self,
        teacher: "Teacher",
        options: TeacherOptions,
        embedding_dim: int,
        processes: Processes | None = None,
    ) -> None:
        super().__init__()
        self.teacher, self.method, self.weight = teacher, options.method, options.weight
        self.hard_samples, self.processes = options.hard_samples, processes or Processes()
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
        self._move_centres(head, taught, labels.to(taught.device), cosines.detach())
        return Lesson(cosine=cosines.mean())

    def _move_centres(
        self, head: "MarginHead", taught: Tensor, labels: Tensor, cosines: Tensor
    ) -> None:
        """Each process moves the centres that it holds, by the images of all processes."""
        taught, labels, cosines = map(self.processes.rows, (taught, labels, cosines))
        own = (labels >= head.classes.start) & (labels < head.classes.stop)
        move_centres(
            head.weight,
            taught[own],
            labels[own] - head.classes.start,
            cosines[own],
            hard_samples=self.hard_samples,
        )

    def share_gradients(self) -> None:
        """Average the gradients of its own parameters over the processes."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                self.processes.sum(parameter.grad).div_(self.processes.count)


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
def move_centres(
    centres: Tensor,
    taught: Tensor,
    labels: Tensor,
    cosines: Tensor,
    *,
    hard_samples: bool = True,
) -> None:
    """AdaDistill's update of the class centres, in place.

    Args:
        centres: w (C, D), of any length.
        taught: y (B, D), of length 1.
        labels: (B,), each in [0, C).
        cosines: (B,) between student and teacher.
        hard_samples: whether a also has the factor cos(w, y), by the centres before the update.
    """
    kept = cosines.clamp_min(0.0).to(centres.dtype)
    taught = taught.to(centres.dtype)
    if hard_samples:
        kept = kept * F.cosine_similarity(centres[labels], taught).clamp_min(0.0)
    counts = torch.bincount(labels, minlength=len(centres)).to(centres.dtype)
    seen = counts > 0
    share = torch.zeros_like(counts).index_add_(0, labels, kept)[seen] / counts[seen]
    sums = torch.zeros_like(centres).index_add_(0, labels, (1.0 - kept)[:, None] * taught)
    centres[seen] = share[:, None] * centres[seen] + sums[seen] / counts[seen, None]
