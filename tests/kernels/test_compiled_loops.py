"""Compiled loops of the chunked backend: their numbers one by one, and whose files are run."""

import math
import os
from dataclasses import dataclass, replace

import pytest
import torch
from margin_oracle import fresh_state, inputs, run

from fusedface.kernels import ArcFace, CurricularFace, MVArc, chunked, margin_loss
from fusedface.kernels.chunks import build
from fusedface.kernels.chunks.library import Excess, Negatives

NONE = torch.full((1,), -1)
NEVER_HARD = torch.full((1,), math.inf)


@pytest.fixture(scope="module")
def library():
    found = build.library()
    if found is None:
        pytest.skip(build.state())
    return found


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, and a process that has looked for no library yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FUSEDFACE_CACHE", str(folder))
    build.library.cache_clear()
    yield folder
    build.library.cache_clear()


def powers(library, exponents):
    """2^x by the backward's loop."""
    y = exponents.clone()[:, None]
    library.coefficients(y, 0, Negatives(NONE, NEVER_HARD, Excess(0, 0, 0)), torch.zeros(1))
    return y[:, 0]


def test_powers_of_two(library):
    x = torch.cat([torch.linspace(-126, 0, 100_001), torch.linspace(-1, 1, 10_001)])
    expected = torch.pow(2.0, x.double())
    assert ((powers(library, x).double() - expected) / expected).abs().max() < 2 * 2.0**-24
    out_of_range = powers(library, torch.tensor([-127.0, -1e30, -math.inf, math.nan]))
    assert out_of_range[:3].tolist() == [0.0, 0.0, 0.0]
    assert out_of_range[3].isnan()


def test_rounding_to_bfloat16_is_torchs(library):
    """To nearest, ties to even; in rows of length 1, which their inverse length leaves as they are."""
    cosines = torch.cat([torch.rand(2000), (128 + torch.arange(128) + 0.5) / 256])
    rows = torch.stack([cosines, (1 - cosines.double() ** 2).sqrt().float()], dim=1)
    inverse, unit = torch.empty(len(rows)), torch.empty_like(rows, dtype=torch.bfloat16)
    library.unit_rows(rows, 1e-12, inverse, unit)
    torch.testing.assert_close(inverse, torch.ones(len(rows)), rtol=0, atol=2e-7)
    assert torch.equal(unit, (rows * inverse[:, None]).bfloat16())
    rows[3, 0] = math.nan
    library.unit_rows(rows, 1e-12, inverse, unit)
    assert unit.isnan().any(dim=1).nonzero().tolist() == [[3]]


@pytest.mark.parametrize("rows", [1, 7, 16, 41])
@pytest.mark.parametrize("columns", [1, 8, 31, 5000])
def test_scaled_and_turned_rows_are_torchs(rows, columns, library):
    """Whole tiles and what is left of them, rows in several blocks; powers of whole numbers are exact."""
    generator = torch.Generator().manual_seed(rows)
    numbers = torch.randn(rows, columns, generator=generator)
    reference = torch.randint(-9, 1, (rows,), generator=generator).float()
    lse, expected = torch.full((rows,), 2.0), numbers * 2 ** (reference - 2.0)[:, None]
    turned = torch.empty(columns, rows)
    library.turn_rows(numbers, reference, lse, turned)
    assert torch.equal(turned, expected.T)
    for dtype in (torch.float32, torch.bfloat16):
        scaled = torch.empty(rows, columns, dtype=dtype)
        library.scale_rows(numbers, reference, lse, scaled)
        assert torch.equal(scaled, expected.to(dtype))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_bits_twice(precision, library, monkeypatch):
    """Products may add up in another order on two threads: each result is held against its repetition."""
    monkeypatch.setattr(chunked, "COMPILED_FROM", 0)
    embeddings, weight, labels = inputs(33, 3001, 24)

    def once():
        state = fresh_state(CurricularFace())
        options = {"precision": precision}
        out, dx, dw = run(CurricularFace(), embeddings, weight, labels, state, "chunked", **options)
        return out.per_sample_loss, dx, dw

    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert all(map(torch.equal, once(), once()))
    finally:
        torch.set_num_threads(threads)


def test_embeddings_of_any_order_in_memory(library, monkeypatch):
    """Columns one after the other, as of a transposed matrix."""
    monkeypatch.setattr(chunked, "COMPILED_FROM", 0)
    embeddings, weight, labels = inputs(12, 500, 8)
    _, expected, _ = run(ArcFace(), embeddings, weight, labels, None, "reference")
    turned = embeddings.t().contiguous().t().requires_grad_()
    margin_loss(turned, weight, labels, ArcFace(), backend="chunked").loss.backward()
    torch.testing.assert_close(turned.grad, expected, rtol=1e-4, atol=1e-6)


@dataclass(frozen=True, kw_only=True)
class InFloat64(MVArc):
    name = "in_float64"

    def threshold(self, batch, state):
        return super().threshold(batch, state).double()


@dataclass(frozen=True, kw_only=True)
class InFloat32(MVArc):
    name = "in_float32"  # a class of its own has no form, and the same way through the loops


def test_a_threshold_of_another_dtype(library, monkeypatch):
    monkeypatch.setattr(chunked, "COMPILED_FROM", 0)
    margins = (InFloat64(), InFloat32())
    ways = [margin_loss(*inputs(12, 500, 8), m, backend="chunked") for m in margins]
    assert torch.equal(*(way.hard_negatives for way in ways))
    assert torch.equal(*(way.per_sample_loss for way in ways))


def test_sizes_decide_who_gets_them(library, monkeypatch):
    """Small heads never wait for a compiler, and one size has one way, whatever ran before."""
    used = []
    monkeypatch.setattr(build, "library", lambda: used.append(True))
    for rows, classes in ((32, 4095), (32, 4096)):
        run(CurricularFace(), *inputs(rows, classes, 4), {"t": torch.zeros(())}, "chunked")
        assert bool(used) == (rows * classes >= 2**17)
    run(CurricularFace(), *inputs(32, 4096, 4, dtype=torch.float64), None, "chunked")
    assert len(used) == 3  # before, in forward and in backward of float32


def test_a_library_is_kept_and_a_damaged_one_made_again(library, cache):
    cache.mkdir(mode=0o700)
    file = cache / build.file_name()
    file.write_bytes(b"no library")
    assert build.library() is not None
    assert file.stat().st_size > 1000
    assert [kept.name for kept in cache.iterdir()] == [file.name]
    assert str(file) in build.state()
    build.library.cache_clear()
    os.environ["FUSEDFACE_CC"] = "false"
    try:
        assert build.library() is not None  # read, not compiled
    finally:
        del os.environ["FUSEDFACE_CC"]


def test_a_library_is_kept_whatever_the_umask_is(library, cache):
    """Of users with a group of their own, whose files the group may write to, too."""
    before = os.umask(0o002)
    try:
        assert build.library() is not None
    finally:
        os.umask(before)
    assert build.is_only_ours(cache / build.file_name())


def test_a_folder_for_temporary_files_from_which_nothing_may_be_run(library, cache, monkeypatch):
    def wrapper(path):
        if not path.startswith(str(cache)):
            raise OSError("failed to map segment from shared object")
        return build.PASSES.wrapper(path)

    assert build.load(replace(build.PASSES, wrapper=wrapper)) is not None
    assert build.is_only_ours(cache / build.file_name())


@pytest.mark.parametrize("flaw", ["file", "folder", "link"])
def test_what_others_may_write_is_not_run(flaw, cache, monkeypatch, tmp_path):
    """It is compiled again or not at all; this compiler fails."""
    if build.library() is None:
        pytest.skip(build.state())
    file = cache / build.file_name()
    assert build.is_only_ours(file)
    if flaw == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        {"file": file, "folder": cache}[flaw].chmod(0o722)
    assert not build.is_only_ours(file)
    build.library.cache_clear()
    monkeypatch.setenv("FUSEDFACE_CC", "false")
    assert build.library() is None


@pytest.mark.parametrize(
    ("compiler", "says"),
    [
        ("", "FUSEDFACE_CC is empty"),
        ("no-such-cc -O1", "no C compiler (no-such-cc -O1) was found"),
        ("'gcc", "FUSEDFACE_CC cannot be read as a command"),
    ],
)
def test_without_a_compiler_torch_takes_over(compiler, says, cache, monkeypatch):
    monkeypatch.setenv("FUSEDFACE_CC", compiler)
    assert build.library() is None
    assert says in build.state() or "AVX" in build.state()
    monkeypatch.setattr(chunked, "COMPILED_FROM", 0)
    out, _, _ = run(CurricularFace(), *inputs(4, 50, 8), {"t": torch.zeros(())}, "chunked")
    assert out.loss.isfinite()


def test_a_compiler_that_fails_is_no_error(cache, monkeypatch):
    monkeypatch.setenv("FUSEDFACE_CC", "false")
    assert build.library() is None
    assert not cache.exists()
    assert build.state().startswith("torch's operators: ")


@pytest.mark.parametrize("lacking", ["temporary folder", "home"])
def test_without_folders_torch_takes_over(lacking, cache, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no home") if lacking == "home" else FileNotFoundError("no folder")

    if lacking == "home":
        monkeypatch.delenv("FUSEDFACE_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(build.Path, "home", fail)
    else:
        monkeypatch.setattr(build.tempfile, "mkdtemp", fail)
    assert build.library() is None
    assert lacking != "home" or "home folder" in build.state() or "AVX" in build.state()
