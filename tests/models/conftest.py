"""Fixtures of the tests of models."""

import pytest

from fusedface.kernels.chunks import build
from fusedface.models.loops import eager, library


@pytest.fixture
def loops(monkeypatch):
    """The library, for tensors of any size."""
    if library.loops() is None:
        pytest.skip(build.state(library.SOURCE))
    monkeypatch.setattr(eager, "COMPILED_FROM", 0)
    monkeypatch.setattr(eager, "INFERENCE_FROM", 0)
    return library.loops()
