"""Forward and backward of a batch: backbone, teacher, head."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fusedface.data import FaceBatch
from fusedface.kernels import MarginOutput
from fusedface.models import Backbone
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.diagnose import THE_LOSS, first_non_finite
from fusedface.recipes.training.distillation import Distiller, Lesson
from fusedface.recipes.training.feed import Feed
from fusedface.recipes.training.parts_of_batch import PartsOfBatch
from fusedface.recipes.training.precision import Precision
from fusedface.recipes.training.replicas import replicate

if TYPE_CHECKING:
    from fusedface.models import MarginHead


class Passed(NamedTuple):
    """What forward and backward leave besides the gradients."""

    out: MarginOutput
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
        model: Backbone,
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
        self._parts = PartsOfBatch(self._replica, self.inputs, precision, num_parts)
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
        self.images = moved.seen()
        in_parts = self._num_parts > 1 and not is_frozen
        embeddings = self._parts.embed(self.images) if in_parts else self._embed(is_frozen)
        with self._precision.autocast():
            lesson = None
            if self._distiller is not None:
                lesson = self._distiller.teach(batch.seen(), embeddings, moved.labels, self._head)
            out = self._head(embeddings, moved.labels)
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

    def _embed(self, is_frozen: bool) -> Tensor:
        """Embeddings (B, D) of `images`, with a graph unless the backbone is frozen."""
        with self._precision.autocast(), torch.set_grad_enabled(not is_frozen):
            return self._replica(self.inputs(self.images))

    def first_non_finite(self) -> str:
        """Name the first tensor of the newest step that is not finite; see `diagnose`."""
        parts = self.images.chunk(self._num_parts)
        found = (first_non_finite(self._model, self._head, self.inputs(part)) for part in parts)
        return next((what for what in found if what != THE_LOSS), THE_LOSS)

    def inputs(self, images: Tensor) -> Tensor:
        """The backbone's input (B, 3, H, W) of images (B, H, W, 3) uint8."""
        inputs = self._model.preprocessing.images_to_tensor(images)
        return inputs if self._channels_last else inputs.contiguous()
