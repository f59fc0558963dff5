"""Forward and backward of a batch: backbone, teacher, head."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fusedface.data import FaceBatch
from fusedface.kernels import checks
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.compiled import Compiled
from fusedface.recipes.training.diagnose import THE_LOSS, first_non_finite
from fusedface.recipes.training.distillation import Distiller, Lesson
from fusedface.recipes.training.feed import Feed
from fusedface.recipes.training.parts_of_batch import PartsOfBatch
from fusedface.recipes.training.precision import Precision
from fusedface.recipes.training.replicas import replicate

if TYPE_CHECKING:
    from fusedface.kernels import MarginOutput
    from fusedface.models import Backbone, MarginHead


class Passed(NamedTuple):
    """What forward and backward leave besides the gradients."""

    out: "MarginOutput"
    lesson: Lesson | None
    embeddings: Tensor
    """(B, D), without a gradient."""


class Passes:
    """Computes the gradients of a step.

    Args:
        model: the backbone, on the device.
        head: the head with the class centres, on the device.
        scaler: scales the loss.
        precision: device and dtype.
        channels_last: whether images are in channels-last memory order.
        processes: the processes that share each step.
        distiller: a teacher and its method; None without a teacher.
        num_parts: number of parts of a batch that go through the backbone one by one.

    Attributes:
        images: (B, H, W, 3) uint8 of the newest batch, on the device.
    """

    def __init__(
        self,
        model: "Backbone",
        head: "MarginHead",
        scaler: torch.amp.GradScaler,
        *,
        precision: Precision,
        channels_last: bool,
        processes: Processes,
        distiller: Distiller | None,
        num_parts: int = 1,
    ) -> None:
        self._model, self._head, self._scaler = model, head, scaler
        self._precision, self._channels_last = precision, channels_last
        self._distiller, self._num_parts = distiller, num_parts
        self._replica = replicate(model, processes)
        self._parts = PartsOfBatch(self._replica, self._embed, precision.device, num_parts)
        self.compile(on=False)
        self._feed = Feed(precision.device)
        self.images = torch.empty(0)

    def __call__(self, batch: FaceBatch, *, is_frozen: bool) -> Passed:
        """Add the gradients of a batch to those that are there.

        Args:
            batch: on the host.
            is_frozen: whether only the class centres get gradients.

        Raises:
            NonFiniteInputError: on a CPU, if the head finds a number that is not finite.
        """
        moved = self._feed(batch)
        self.images, labels = moved.seen(), moved.labels
        in_parts = self._num_parts > 1 and not is_frozen
        if in_parts or is_frozen or self._distiller is not None:
            with torch.set_grad_enabled(not is_frozen):
                embeddings = (self._parts.embed if in_parts else self._embed)(self.images)
            lesson, out = self._taught(batch, embeddings, labels)
        else:
            lesson, (embeddings, out) = None, self._whole(self.images, labels)
        loss = out.loss
        if lesson is not None and lesson.loss is not None:
            loss = loss + lesson.loss
        self._scaler.scale(loss).backward()
        if in_parts:
            assert embeddings.grad is not None
            self._parts.backward(self.images, embeddings.grad)
        if self._distiller is not None:
            self._distiller.share_gradients()
        return Passed(out, lesson, embeddings.detach())

    def compile(self, *, on: bool) -> None:
        """Compile the passes at their next call, or compute them by PyTorch's operators again.

        On a GPU that is backbone and head together, if nothing has to come between them. On a CPU it is the
        backbone: the head there has compiled loops of its own.
        """
        together = self._num_parts == 1 and self._distiller is None
        whole = on and together and not checks.can_be_read(self._precision.device)
        self._network = Compiled(self._replica) if on and not whole else self._replica
        self._whole = Compiled(self._embed_and_lose) if whole else self._embed_and_lose

    def forget_gradients(self) -> None:
        """Drop those of the distiller."""
        if self._distiller is not None:
            self._distiller.zero_grad(set_to_none=True)

    def _embed(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) of images (B, H, W, 3) uint8."""
        with self._precision.autocast():
            return self._network(self.inputs(images))

    def _embed_and_lose(self, images: Tensor, labels: Tensor) -> "tuple[Tensor, MarginOutput]":
        with self._precision.autocast():
            embeddings = self._network(self.inputs(images))
            return embeddings, self._head(embeddings, labels)

    def _taught(
        self, batch: FaceBatch, embeddings: Tensor, labels: Tensor
    ) -> "tuple[Lesson | None, MarginOutput]":
        with self._precision.autocast():
            lesson = None
            if self._distiller is not None:
                lesson = self._distiller.teach(batch.seen(), embeddings, labels, self._head)
            return lesson, self._head(embeddings, labels)

    def first_non_finite(self) -> str:
        """Name the first tensor of the newest step that is not finite; see `diagnose`."""
        parts = self.images.chunk(self._num_parts)
        # All parts, also after one is found: other processes may find none, and each part needs them all.
        found = [first_non_finite(self._model, self._head, self.inputs(part)) for part in parts]
        return next((what for what in found if what != THE_LOSS), THE_LOSS)

    def inputs(self, images: Tensor) -> Tensor:
        """The backbone's input (B, 3, H, W) of images (B, H, W, 3) uint8."""
        inputs = self._model.preprocessing.images_to_tensor(images)
        return inputs if self._channels_last else inputs.contiguous()
