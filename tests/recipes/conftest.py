"""Fixtures of the tests of recipes."""

import os

import pytest
from small_models import shortened
from starting_points import write_checkpoint
from tiny_run import write_faces

from fusedface.recipes.report import curves


@pytest.fixture(autouse=True, scope="module")
def _no_curves():
    """Drawing takes longer than the rest of a tiny run; tests/test_cli.py has a run that draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "plot_curves", lambda _folder: [])
        yield


@pytest.fixture(autouse=True, scope="module")
def _no_wait_for_the_disk():
    """A test need not survive a power cut. `fstat` raises for a bad descriptor, as `fsync` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="module")
def short_networks():
    """Backbones of few blocks, where a run is in question and not its network."""
    with pytest.MonkeyPatch.context() as patch:
        shortened(patch)
        yield


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """The faces of `tiny_run`."""
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint to begin a run with; see `starting_points`."""
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "weights.pt")
