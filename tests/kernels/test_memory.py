"""Nothing of size B x C is ever allocated by the chunked backend."""

import pytest
import torch
from margin_oracle import inputs
from torch.utils._python_dispatch import TorchDispatchMode

from fusedface.kernels import CurricularFace, margin_loss


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
    with LargestTensor(allowed={classes * dim, rows * dim}) as seen:
        margin_loss(embeddings, weight, labels, CurricularFace(), backend=backend).loss.backward()
    assert (seen.largest >= rows * classes) == materialises
    if not materialises:
        assert seen.largest <= 4 * 2**18  # the four chunk buffers
