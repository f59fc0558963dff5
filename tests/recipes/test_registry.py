"""Recipes by name, in this repository or in anybody's module."""

import sys

import pytest

from fusedface.recipes.registry import get_recipe

MODULE = """
from dataclasses import replace
from fusedface.recipes.registry import get_recipe

def small():
    return replace(get_recipe("mobilefacenet-normface"), name="mine")

def none():
    return 3

number = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in the current folder; its name is this test's own, as modules stay imported."""
    name = f"recipes_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "more.py").write_text(MODULE)
    (tmp_path / name / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def test_a_recipe_may_live_in_any_module(package):
    recipe = get_recipe(f"{package}.more:small")
    assert recipe.name == "mine"
    assert recipe.optim == get_recipe("mobilefacenet-normface").optim


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("{}.more:smal", "no function 'smal'"),
        ("{}.more:number", "no function 'number'"),
        ("{}.more:none", "must return a Recipe"),
        ("{}.none:small", "cannot import"),
        ("{}.broken:small", "ZeroDivisionError"),
        (":small", "cannot import"),
    ],
)
def test_what_is_wrong_with_a_module_is_said(package, name, told):
    with pytest.raises(ValueError, match=told):
        get_recipe(name.format(package))
