"""The backward that makes a step of SGD on the class centres: its launches, memory and compiled kernels."""

import pytest
import torch
from gpu_launches import recorded, usage
from torch.utils._python_dispatch import TorchDispatchMode

from fusedface.kernels.gpu import layout, learning
from fusedface.kernels.gpu.arguments import Numbers
from fusedface.kernels.interface.update import CentreUpdate

ROWS, CLASSES = 512, 1_000_000
OWN = ("step_numbers_kernel", "row_update_kernel")
DTYPES = [
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16),
]


class LargestMemory(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that was made and is no view."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if all(returned.alias_info is None for returned in func._schema.returns):
            for tensor in torch.utils._pytree.tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    self.largest = max(self.largest, tensor.numel() * tensor.itemsize)
        return result


def backward_of(dim, dtypes, monkeypatch, target="sm_90"):
    """The launches of a backward, and the bytes of the largest memory that it made."""
    with torch.device("meta"):
        x = torch.empty(ROWS, dim, requires_grad=True)
        weight, momentum = (torch.empty(CLASSES, dim, dtype=dtype) for dtype in dtypes)
        labels, row = torch.empty(ROWS, dtype=torch.int64), torch.empty(ROWS)
        number, wide = torch.empty(()), torch.empty((), dtype=torch.float64)
        skip, seed = wide.bool(), wide.long()
    update = CentreUpdate(momentum, wide, wide, skip, seed, 0.9, True, 5e-4)
    numbers = Numbers(64.0, 1.0, 0.0, "bfloat16", True)
    with recorded(monkeypatch, target) as launches:
        cos_y, lse, _ = learning.cosine_lse(
            x, weight.requires_grad_(), labels, row, number, numbers, update
        )
        started = len(launches)
        with LargestMemory() as seen:
            (cos_y + lse).sum().backward()
    assert weight.grad is None
    return launches[started:], seen.largest


@pytest.mark.parametrize("dim", [128, 512])
def test_no_gradient_of_all_class_centres_and_few_launches(dim, monkeypatch):
    launches, largest = backward_of(dim, DTYPES[0], monkeypatch)
    assert largest <= max(layout.CHUNK_BYTES, 4 * CLASSES * dim / layout.UPDATE_SHARE)
    chunks = -(-CLASSES // layout.update_classes(ROWS, CLASSES, dim, "bfloat16"))
    assert 1 < chunks < 100
    names = [launch.name for launch in launches]
    of_gradient = (
        ["centre_gradient_kernel"] if dim == 128 else ["coefficients_kernel", "products_kernel"]
    )
    once = ["row_factors_kernel", "step_numbers_kernel", "embedding_gradient_kernel"]
    assert sorted(names) == sorted(once + chunks * [*of_gradient, "row_update_kernel"])
    # The embeddings get the gradient of the old class centres, of which the narrow schedule needs all.
    assert dim != 128 or names.index("embedding_gradient_kernel") < names.index("row_update_kernel")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dim", [100, 128, 512])
def test_the_step_compiles_without_spills(dim, target, monkeypatch):
    for dtypes in DTYPES:
        launches, _ = backward_of(dim, dtypes, monkeypatch, target)
        for name in OWN:
            used = usage(next(launch for launch in launches if launch.name == name), target)
            print(target, dim, dtypes, name, used)
            assert not used.spilled
            assert not used.atomics
            assert (
                used.registers <= 128
            )  # so that four programs of 128 threads fit a multiprocessor


@pytest.mark.parametrize(
    ("dim", "precision"), [(128, "bfloat16"), (512, "bfloat16"), (512, "float32")]
)
@pytest.mark.parametrize("classes", [1, 300, 85_742, 10_000_000, 100_000_000])
def test_chunks(classes, dim, precision):
    chunk = layout.update_classes(ROWS, classes, dim, precision)
    assert chunk % layout.UPDATE_MULTIPLE == 0
    assert chunk * ROWS <= layout.LARGEST_OFFSET
    multiple = layout.UPDATE_MULTIPLE * 4 * (dim + ROWS)
    assert (
        4 * dim * chunk
        <= max(layout.CHUNK_BYTES, 4 * dim * classes / layout.UPDATE_SHARE) + multiple
    )
