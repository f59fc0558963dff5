"""The memory of a gradient of class centres, used again from step to step.

On a CPU new memory is slow, because the system clears it page by page at the first touch: at (256, 85742,
512) that takes as long as a product (docs/performance.md). So the memory of the last gradient stays with
its class centres. The next forward takes it if nothing else holds it: `.grad` is None, and no view or
array of it is left. The peak of a training step stays as it is, since the forward makes the gradient.
"""

import torch
from torch import Tensor, UntypedStorage
from torch.utils.weak import WeakTensorKeyDictionary

from fusedface.kernels.chunks.library import Library

# None of it outlives its class centres.
_last = WeakTensorKeyDictionary()


def gradient_like(library: Library, weight: Tensor) -> Tensor:
    """A tensor like `weight`, which is contiguous; its numbers are any.

    It is an ordinary tensor of its own, which may become a `.grad`.
    """
    # Taken out, so that no other thread takes it, too.
    storage: UntypedStorage | None = _last.pop(weight, None)
    if storage is not None and _is_free(storage) and storage.nbytes() == weight.nbytes:
        gradient = weight.new_empty(0).set_(storage, 0, weight.shape, weight.stride())
    else:
        gradient = torch.empty_like(weight)
        library.advise_large_pages(gradient)
    _last[weight] = gradient.untyped_storage()
    return gradient


def _is_free(storage: UntypedStorage) -> bool:
    """Whether this is its only reference, in any process; torch has no public name for their number."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    return count is not None and count(storage._cdata) == 1 and not storage.is_shared()
