"""Which operands the products of the chunked backend round, on processors with and without bfloat16."""

import pytest
import torch
from margin_oracle import inputs

from fusedface.kernels import CurricularFace, margin_loss, products
from fusedface.kernels.products import Products

CPU = torch.device("cpu")


def operands():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(24, 40, generator=generator), torch.randn(40, 16, generator=generator))


@pytest.fixture(params=[True, False], ids=["bfloat16", "no bfloat16"])
def is_fast(request, monkeypatch):
    monkeypatch.setattr(products, "bfloat16_is_fast", lambda: request.param)
    return request.param


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
def test_what_is_rounded(is_fast, precision):
    """Operands to bfloat16 where that is asked for and fast; float32's own rounding else."""
    a, b = operands()
    rounds = is_fast and precision in ("bfloat16", "float16")
    exact, largest = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    of_rounded = a.bfloat16().double() @ b.bfloat16().double()
    for product in (Products(CPU, precision), Products(CPU, precision).of_gradient):
        found = product(a, b)
        assert found.dtype == torch.float32
        assert product(a.double(), b.double()).dtype == torch.float64
        if rounds:
            # The result is rounded to bfloat16 as well: 8 bits.
            assert ((found.double() - of_rounded).abs() <= 2**-8 * largest).all()
            assert (found.double() - exact).abs().max() > 1e-3
        else:
            assert ((found.double() - exact).abs() <= 40 * 2**-24 * largest).all()


@pytest.mark.parametrize("turned", ["neither", "first", "second"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_sums_are_float32(precision, turned):
    """256 and 4095 quarters: in bfloat16 each quarter would be lost. Only the result is rounded."""
    first, second = torch.full((256, 4096), 0.25), torch.ones(4096, 128)
    first[:, 0] = 256.0
    times = Products(CPU, precision)
    first, second = (rows.to(times.dtype) for rows in (first, second))
    if turned == "first":
        first = first.T.contiguous().T
    elif turned == "second":
        second = second.T.contiguous().T
    assert times.as_they_come(first, second).unique().tolist() == [
        torch.tensor(256.0 + 4095 / 4).to(times.dtype).item()
    ]


@pytest.mark.filterwarnings("ignore:TF32")  # torch's own, of switching oneDNN
@pytest.mark.parametrize("enabled", [True, False])
def test_float64_and_mkldnn_off(enabled):
    """float64 keeps its digits, and switching oneDNN off changes no more than rounding."""
    a, b = operands()
    with torch.backends.mkldnn.flags(enabled=enabled):
        times = Products(CPU, "float32")
        assert products.onednn_is_usable() <= enabled
        torch.testing.assert_close(times(a, b), a @ b)
        exact = times(a.double(), b.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact, a.double() @ b.double(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_float64_inputs_keep_their_dtype_in_every_precision(is_fast, precision):
    """As in a run of float64 on a processor whose automatic choice is bfloat16."""
    embeddings, weight, labels = inputs(6, 20, 8, dtype=torch.float64)
    x, w = embeddings.requires_grad_(), weight.requires_grad_()
    margin = CurricularFace(s=8.0)
    losses = [
        margin_loss(x, w, labels, margin, backend=backend, precision=precision).loss
        for backend in ("chunked", "reference")
    ]
    losses[0].backward()
    assert losses[0].dtype == x.grad.dtype == w.grad.dtype == torch.float64
    torch.testing.assert_close(*losses, rtol=3e-2, atol=0)


@pytest.mark.parametrize("num_classes", [60, 6000])
@pytest.mark.parametrize("onednn", [True, False])
def test_a_backward_within_autocast_rounds_nothing(onednn, num_classes):
    """Without oneDNN it rounded float32 operands, or failed on sums of two dtypes."""
    embeddings, weight, labels = inputs(32, num_classes, 16)
    found = []
    with torch.backends.mkldnn.flags(enabled=onednn):
        for is_within in (False, True):
            x, w = (tensor.clone().requires_grad_() for tensor in (embeddings, weight))
            out = margin_loss(
                x, w, labels, CurricularFace(), backend="chunked", precision="float32"
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=is_within):
                out.loss.backward()
            found.append((x.grad, w.grad))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize(
    ("vendor", "capability", "by_mkl"),
    [
        ("vendor_id : GenuineIntel", "AVX512", True),
        ("vendor_id : GenuineIntel", "AVX2", True),
        ("vendor_id : AuthenticAMD", "AVX512", False),
        ("vendor_id : AuthenticAMD", "AVX2", True),
    ],
)
def test_mkl_serves_where_it_uses_what_the_processor_has(monkeypatch, vendor, capability, by_mkl):
    """It leaves AVX-512 unused on processors that are not Intel's."""
    monkeypatch.setattr(products, "_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert products.mkl_is_fast.__wrapped__() is by_mkl
