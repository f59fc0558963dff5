"""What tests/quick_interpreter.py replaces in Triton's interpreter: results are the same."""

import torch
import triton
import triton.language as tl
from margin_oracle import inputs
from triton.runtime import interpreter

from fusedface.kernels import CurricularFace, margin_loss


def gradients():
    embeddings, weight, labels = inputs(5, 70, 16)
    x, w = embeddings.requires_grad_(), weight.requires_grad_()
    out = margin_loss(x, w, labels, CurricularFace(), backend="triton", precision="float16")
    out.loss.backward()
    return out.per_sample_loss.detach(), x.grad, w.grad


def test_the_same_bits_as_without(replaced, monkeypatch):
    quick = gradients()
    assert len(replaced) == 3 or not triton.__version__.startswith("3.7.")
    for owner, name, original in replaced:
        monkeypatch.setattr(owner, name, original)
    assert all(map(torch.equal, quick, gradients()))


def test_types_are_those_of_triton(replaced, monkeypatch):
    """NumPy's, the first time and the second."""

    def of_types():
        scalars = [tl.int1, tl.int32, tl.float16, tl.bfloat16, tl.pointer_type(tl.float32)]
        types = [*scalars, *(tl.block_type(ty, [4, 2]) for ty in scalars)]
        return [interpreter._get_np_dtype(ty) for ty in types]

    quick = [of_types(), of_types()]
    for owner, name, original in replaced:
        monkeypatch.setattr(owner, name, original)
    assert quick == [of_types()] * 2
