"""Brings batches to the device; on a GPU the copy overlaps with steps that the device still computes."""

import torch

from fusedface.data import FaceBatch


class Feed:
    """Copies batches to a device.

    On a GPU the copies run on a stream of their own. The host issues them while the device still works on
    the steps before, because nothing in a step makes it wait. So the next batch is there in time, although
    it is read no earlier than its step.

    Args:
        device: where the steps are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: FaceBatch) -> FaceBatch:
        """The batch on the device, which the current stream may read."""
        if batch.images.device.type == self._device.type != "cpu":
            return batch  # brought before
        if self._stream is None:
            return batch.to(self._device)
        with torch.cuda.stream(self._stream):
            moved = batch.to(self._device)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in moved.tensors():
            tensor.record_stream(current)  # its memory is not given away while the step reads it
        return moved
