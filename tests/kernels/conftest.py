"""The ways in which the primitive is computed without a GPU."""

import math

import pytest

from fusedface.kernels import chunked
from fusedface.kernels.chunks import build


@pytest.fixture
def backend(request, monkeypatch):
    """A backend's name: "compiled" is "chunked" with compiled loops at every size, "chunked" at none."""
    is_compiled = request.param == "compiled"
    if is_compiled and build.library() is None:
        pytest.skip(build.state())
    monkeypatch.setattr(chunked, "COMPILED_FROM", 0 if is_compiled else math.inf)
    return "chunked" if is_compiled else request.param
