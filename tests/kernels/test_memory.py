"""Nothing of size B x C is ever allocated by the chunked backend."""

import pytest
import torch
from margin_oracle import inputs
from torch.utils._python_dispatch import TorchDispatchMode

from fusedface.kernels import CurricularFace, chunked, margin_loss


class LargestTensor(TorchDispatchMode):
    """Records the largest storage that any operation returned, but for the given sizes."""

    def __init__(self, allowed):
        super().__init__()
        self.allowed, self.largest = allowed, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                num = tensor.untyped_storage().nbytes() // max(tensor.element_size(), 1)
                if num not in self.allowed:
                    self.largest = max(self.largest, num)
        return result


@pytest.mark.parametrize(("backend", "materialises"), [("reference", True), ("chunked", False)])
def test_largest_tensor(backend, materialises):
    rows, classes, dim = 64, 40_000, 16
    embeddings, weight, labels = inputs(rows, classes, dim)
    embeddings.requires_grad_()
    weight.requires_grad_()
    # The last is freed at once, and no page of it is touched.
    with LargestTensor(allowed={classes * dim, rows * dim, chunked.KEPT_BYTES}) as seen:
        margin_loss(embeddings, weight, labels, CurricularFace(), backend=backend).loss.backward()
    assert (seen.largest >= rows * classes) == materialises
    if not materialises:
        assert seen.largest <= 4 * 2**18  # the four chunk buffers


@pytest.mark.parametrize("rows", [1, 64, 100, 256, 300, 5000])
@pytest.mark.parametrize("classes", [1, 255, 1000, 4096, 4097, 10572, 85742])
def test_chunks_are_even(rows, classes):
    """There are as few as their bound allows, and the last one is not much smaller than the others."""
    size = chunked.chunk_size(rows, classes)
    most = min(max(chunked.CHUNK_ELEMENTS // rows, chunked.MIN_CHUNK), chunked.MAX_CHUNK)
    number = -(-classes // size)
    assert 0 < size <= min(most, classes)
    assert number == -(-classes // most)
    assert classes - (number - 1) * size > size - number * chunked.CHUNK_STEP
