"""Losses for Inductor's auto-chunker: right, cut by the chunker, and refused where it left them whole."""

import pytest
import torch

from fusedface.bench.case import Case
from fusedface.bench.check import check, truth
from fusedface.bench.heads import auto_chunked, packages, published
from fusedface.bench.heads.table import Head, heads
from fusedface.kernels import ArcFace, NormFace

CPU = torch.device("cpu")
needs_chunker = pytest.mark.skipif(
    bool(auto_chunked.missing_in_torch()), reason=auto_chunked.missing_in_torch()
)


@pytest.mark.parametrize("phase", ["start", "late"])
def test_the_form_for_the_chunker_is_arcface(phase):
    case = Case(16, 500, 64, phase)
    head = Head("arcface", ArcFace(m=0.5, s=64.0), lambda: auto_chunked.arcface)
    inputs = case.inputs(CPU)
    errors = check(head, auto_chunked.arcface, inputs, truth(head, case, inputs))
    assert max(errors) < 2e-5


def test_what_the_chunker_left_whole_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda loss, **_: loss)
    run = auto_chunked.auto_chunked(auto_chunked.arcface)
    with pytest.raises(auto_chunked.NotChunkedError, match="left it whole"):
        run(*Case(4, 10, 8).inputs(CPU))


class FoundError(BaseException):
    """Ends a compilation after the chunker."""


@needs_chunker
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_chunker_cuts_it(dtype, monkeypatch):
    """Only its passes run; compiling what they give takes a minute."""
    from torch._inductor import lowering, metrics  # noqa: F401  # defines operators of the chunker
    from torch._inductor.fx_passes import auto_chunker as chunker

    cut = chunker.chunk

    def stop(graph):
        before = metrics.num_auto_chunking
        cut(graph)
        raise FoundError(metrics.num_auto_chunking - before)

    monkeypatch.setattr(chunker, "chunk", stop)
    loss = auto_chunked.arcface
    torch.compiler.reset()
    run = auto_chunked.auto_chunked(loss if dtype is None else published.in_autocast(loss, dtype))
    with pytest.raises(FoundError) as found:
        run(*Case(64, 10_572, 32).inputs(CPU))
    assert found.value.args == (1,)


def test_padded_class_centres_change_no_gradient_and_hardly_the_loss():
    """To a multiple of 256, by rows of zeros."""
    case = Case(16, 500, 64)
    sizes = []

    def function(x, w, labels):
        sizes.append(len(w))
        return torch.nn.functional.cross_entropy(x @ w.T, labels)

    loss = packages._normface(packages.padded(function), torch.float32)
    head = Head("padded", NormFace(s=64.0), lambda: loss, precision="bfloat16")
    inputs = case.inputs(CPU)
    check(head, loss, inputs, truth(head, case, inputs))
    assert sizes == [512]


def test_what_is_not_there_says_what_to_install():
    names = {head.name: head.missing for head in heads(0.0, CPU)}
    assert "auto-chunked arcface bfloat16" in names
    assert not any("quack" in name or "hopper" in name for name in names)  # only on a GPU
    assert packages.missing_quack(CPU) == "quack-kernels is not installed"
    assert packages.missing_liger_hopper(CPU)
