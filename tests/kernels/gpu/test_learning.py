"""The backward that makes a step of SGD on the class centres: its launches, memory and compiled kernels."""

from collections import Counter

import pytest
import torch
from gpu_launches import recorded, usage
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from fusedface.kernels.gpu import layout, learning
from fusedface.kernels.gpu.arguments import Numbers
from fusedface.kernels.interface.update import CentreUpdate

ROWS, CLASSES = 512, 1_000_000
OWN = ("step_numbers_kernel", "row_update_kernel", "add_chunk_kernel", "combine_kernel")
DTYPES = [
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16),
]


class Memory(TorchDispatchMode):
    """Follows the memory that is made and freed: the most that is held at a time, in bytes."""

    def __init__(self):
        super().__init__()
        self.most, self.held = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if all(returned.alias_info is None for returned in func._schema.returns):
            for tensor in torch.utils._pytree.tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    self.held.append((StorageWeakRef(storage), storage.nbytes()))
        self.held = [(ref, size) for ref, size in self.held if not ref.expired()]
        self.most = max(self.most, sum(size for _, size in self.held))
        return result


def step_of(
    dim, dtypes, monkeypatch, target="sm_90", classes=CLASSES, precision="bfloat16", **options
):
    """The launches of a forward and of a backward, and the most bytes that they hold."""
    with torch.device("meta"):
        x = torch.empty(ROWS, dim, requires_grad=True)
        weight, momentum = (torch.empty(classes, dim, dtype=dtype) for dtype in dtypes)
        labels, row = torch.empty(ROWS, dtype=torch.int64), torch.empty(ROWS)
        number, wide = torch.empty(()), torch.empty((), dtype=torch.float64)
        skip, seed = wide.bool(), wide.long()
    update = CentreUpdate(momentum, wide, wide, skip, seed, 0.9, True, 5e-4, **options)
    numbers = Numbers(64.0, 1.0, 0.0, precision, True)
    with recorded(monkeypatch, target, holds=False) as launches, Memory() as memory:
        cos_y, lse, _ = learning.cosine_lse(
            x, weight.requires_grad_(), labels, row, number, numbers, update
        )
        num_forward = len(launches)
        (cos_y + lse).sum().backward()
    assert weight.grad is None
    return launches[:num_forward], launches[num_forward:], memory.most


OF_GRADIENT = {128: ["centre_gradient_kernel"], 512: ["coefficients_kernel", "products_kernel"]}
OF_SUMS = {128: "flash_kernel", 512: "lse_kernel"}


@pytest.mark.parametrize("dim", [128, 512])
def test_few_launches(dim, monkeypatch):
    """A chunk takes 2 or 3 launches, and 6 or 7 where it makes its unit rows in both passes."""
    chunks = -(-CLASSES // layout.update_classes(ROWS, CLASSES, dim, "bfloat16"))
    assert 1 < chunks < 100
    forward = ["unit_rows_kernel", "flags_kernel", "target_cosine_kernel", "combine_kernel"]
    of_sums = ["unit_rows_kernel", OF_SUMS[dim]]
    backward = ["row_factors_kernel", "step_numbers_kernel", "embedding_gradient_kernel"]
    backward.append("unit_rows_kernel")  # of the targets
    of_step = [*OF_GRADIENT[dim], "row_update_kernel"]
    assert named(step_of(dim, DTYPES[0], monkeypatch)) == (
        Counter(forward + of_sums), Counter(backward + chunks * of_step)
    )  # fmt: skip
    of_sums.append("add_chunk_kernel")
    of_step.append("unit_rows_kernel")
    assert named(step_of(dim, DTYPES[0], monkeypatch, keeps_unit_rows=False)) == (
        Counter(forward + chunks * of_sums), Counter(backward + chunks * of_step)
    )  # fmt: skip


def named(step):
    return tuple(Counter(launch.name for launch in launches) for launches in step[:2])


# docs/scaling.md: bytes a class next to class centres and momentum, with unit rows of all class centres and
# without.
NEXT_TO_THEM = {
    (128, "bfloat16"): (268, 12), (128, "tf32"): (524, 16),
    (512, "bfloat16"): (1060, 43), (512, "tf32"): (2084, 48),
}  # fmt: skip


@pytest.mark.parametrize(("dim", "precision"), NEXT_TO_THEM)
def test_bytes_of_a_class(dim, precision, monkeypatch):
    """What a step holds at most, as it grows with the number of classes."""
    found = []
    for keeps in (True, False):
        few, many = (
            step_of(
                dim, DTYPES[0], monkeypatch, classes=classes, precision=precision,
                keeps_unit_rows=keeps,
            )[2]
            for classes in (10_000_000, 20_000_000)
        )  # fmt: skip
        found.append((many - few) / 10_000_000)
    assert found == pytest.approx(NEXT_TO_THEM[dim, precision], abs=0.5)


@pytest.mark.parametrize(("classes", "dim"), [(10_000_000, 512), (40_000_000, 128)])
def test_many_classes_in_80_gb(classes, dim, monkeypatch):
    """With momentum in float32; the kernels choose to keep no unit rows by themselves."""
    monkeypatch.setattr(layout, "memory", lambda device: 80 * 10**9)
    forward, _, most = step_of(dim, DTYPES[0], monkeypatch, classes=classes)
    assert any(launch.name == "add_chunk_kernel" for launch in forward)
    assert 8 * dim * classes + most < 42e9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dim", "target"),
    [
        (100, "sm_90"), (512, "sm_90"), (128, "sm_80"),
        *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in
          [(100, "sm_80"), (512, "sm_80"), (128, "sm_90")]),
    ],
)  # fmt: skip
def test_the_step_compiles_without_spills(dim, target, monkeypatch):
    for dtypes in DTYPES:
        forward, backward, *_ = step_of(dim, dtypes, monkeypatch, target, keeps_unit_rows=False)
        for name in OWN:
            used = usage(
                next(launch for launch in forward + backward if launch.name == name), target
            )
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
