"""Forward and backward of a batch: backbone, teacher, head."""

from typing import NamedTuple

import torch
from torch import Tensor

from fusedface.data import FaceBatch
from fusedface.kernels import MarginOutput
from fusedface.models import Backbone, MarginHead
from fusedface.recipes.host.processes import Processes
from fusedface.recipes.training.distillation import Distiller, Lesson
from fusedface.recipes.training.feed import Feed
from fusedface.recipes.training.precision import Precision
from fusedface.recipes.training.replicas import replicate


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

    Attributes:
        images: (B, H, W, 3) uint8 of the newest batch, on the device.
    """

    def __init__(
        self,
        model: Backbone,
        head: MarginHead,
        scaler: torch.amp.GradScaler,
        *,
        precision: Precision,
        channels_last: bool,
        processes: Processes,
        distiller: Distiller | None,
    ) -> None:
        self._model, self._head, self._scaler = model, head, scaler
        self._precision, self._channels_last = precision, channels_last
        self._distiller = distiller
        self._replica = replicate(model, processes)
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
        inputs = self.inputs(self.images)
        with self._precision.autocast():
            with torch.set_grad_enabled(not is_frozen):
                embeddings = self._replica(inputs)
            lesson = None
            if self._distiller is not None:
                lesson = self._distiller.teach(batch.seen(), embeddings, moved.labels, self._head)
            out = self._head(embeddings, moved.labels)
        loss = out.loss
        if lesson is not None and lesson.loss is not None:
            loss = loss + lesson.loss
        self._scaler.scale(loss).backward()
        return Passed(out, lesson, embeddings.detach())

    def inputs(self, images: Tensor) -> Tensor:
        """The backbone's input (B, 3, H, W) of images (B, H, W, 3) uint8."""
        inputs = self._model.preprocessing.images_to_tensor(images)
        return inputs if self._channels_last else inputs.contiguous()
