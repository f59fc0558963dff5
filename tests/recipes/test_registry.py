"""Recipes by name, in this repository or in anybody's module."""

import subprocess
import sys

import pytest

from fusedface.recipes import mobilefacenet, summaries
from fusedface.recipes.registry import RECIPES, get_recipe

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


def test_the_list_has_every_recipe_and_no_other():
    assert summaries.LOSSES.keys() == mobilefacenet.LOSSES.keys()
    shown = [name for name, _ in summaries.lines()]
    groups = [name.removesuffix("...") for name in shown if name.endswith("...")]
    assert all(name in shown or name.startswith(tuple(groups)) for name in RECIPES)
    assert all(
        get_recipe(name).summary == text for name, text in summaries.lines() if name in RECIPES
    )
    assert len(set(shown) & set(RECIPES)) == len(shown) - len(groups)


def test_reading_a_recipe_loads_no_compiler():
    """torch's own is loaded by drawing weights on "meta", and takes longer than a first step."""
    code = (
        "import sys\nfrom fusedface.recipes.registry import get_recipe\n"
        "for net in ('mobilefacenet', 'iresnet18', 'ghostfacenet_v1_s1'):\n"
        "    print(get_recipe(net + '-arcface').backbone)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("BackboneOptions") == 3
