"""Random keys of classes (sampling.py), in one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fusedface.kernels.gpu import launch, layout
from fusedface.kernels.gpu.row_update import GAMMA, mix

BLOCK = 1024  # keys that one program makes
POSITIVE = tl.constexpr(2**63 - 1)


# An operator of torch: whoever traces a step must see that the keys are made.
_library = torch.library.Library("fusedface", "FRAGMENT")
_library.define(
    "class_keys(Tensor seed, int num, int first) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)


def keys(seed: Tensor, num: int, first: int) -> Tensor:
    """(num,) int64 >= 0: `random_bits.random_bits` of the numbers from `first` on, without the sign."""
    return torch.ops.fusedface.class_keys(seed, num, first)


def _keys(seed: Tensor, num: int, first: int) -> Tensor:
    made = seed.new_empty(num)
    with launch.on_device(seed.device):
        launch.start(keys_kernel, layout.ceil_div(num, BLOCK), seed, made, num, first, BLOCK=BLOCK)
    return made


def _fake_keys(seed: Tensor, num: int, first: int) -> Tensor:  # noqa: ARG001
    return seed.new_empty(num)


_library.impl("class_keys", _keys, "CompositeExplicitAutograd")
torch.library.register_fake("fusedface::class_keys", _fake_keys, lib=_library)


@triton.jit(do_not_specialize=["num", "first"], do_not_specialize_on_alignment=["seed_ptr"])
def keys_kernel(
    # 0-d int64 -> (num,) int64
    seed_ptr, keys_ptr,
    num, first,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK keys; grid (num / BLOCK, rounded up,)."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    bits = mix(mix(tl.load(seed_ptr) + GAMMA) + GAMMA * (places + first + 1))
    tl.store(keys_ptr + places, bits & POSITIVE, mask=places < num)
