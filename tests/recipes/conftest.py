"""Fixtures of the tests of recipes."""

import pytest

from fusedface.recipes.report import curves


@pytest.fixture(autouse=True, scope="module")
def _no_curves():
    """Drawing takes longer than the rest of a tiny run; tests/test_cli.py has a run that draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "plot_curves", lambda _folder: [])
        yield
