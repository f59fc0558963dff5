"""A recipe file gives back exactly the recipe it was written from."""

import dataclasses
import os
import types
from typing import Union, get_args, get_origin, get_type_hints

import pytest

from fusedface.kernels import AdaFace, HeadOptions
from fusedface.recipes.configuration import recipe as records
from fusedface.recipes.configuration.recipe import BackboneOptions, Evaluation, Recipe, Schedule
from fusedface.recipes.configuration.settings import differences, override, read_recipe, to_toml
from fusedface.recipes.registry import RECIPES, get_recipe
from fusedface.recipes.run import run_recipe

UNUSUAL = Recipe(
    name="unusual",
    summary='quotes " and back\\slashes, ümlauts',
    backbone=BackboneOptions(input_size=(112, 96), width=0.5),
    head=HeadOptions(margin=AdaFace(m=0.3, h=0.25), target_gradient="straight_through"),
    schedule=Schedule(steps=7, kind="step", milestones=(0.1, 1 / 3)),
    evaluation=Evaluation(pairs=("a/b.csv", "C:\\pairs.txt"), root="somewhere"),
)


@pytest.mark.parametrize("recipe", [*map(get_recipe, RECIPES), UNUSUAL], ids=lambda r: r.name)
def test_round_trip(recipe, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    again = get_recipe(path)
    assert again == recipe
    assert differences(again, recipe) == []
    assert to_toml(again) == to_toml(recipe)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    """A run with it could not be resumed: no TOML file holds such a name."""
    name = os.fsdecode(b"caf\xe9")
    recipe = override(UNUSUAL, [f"data.source={name}"])
    with pytest.raises(ValueError, match=r"data\.source is 'caf\\udce9', which is not UTF-8"):
        run_recipe(recipe, tmp_path / "run", device="cpu")
    pairs = dataclasses.replace(UNUSUAL, evaluation=Evaluation(pairs=(name,)))
    with pytest.raises(ValueError, match=r"evaluation\.pairs is"):
        to_toml(pairs)
    assert not (tmp_path / "run").exists()


def test_a_file_with_a_byte_order_mark(tmp_path):
    """As some editors write it."""
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(UNUSUAL), encoding="utf-8-sig")
    assert read_recipe(path) == UNUSUAL


def test_fields_that_may_be_none_are_none_by_default():
    """TOML has no null: what is None is left out, so leaving it out must mean None."""
    kinds = [kind for kind in vars(records).values() if dataclasses.is_dataclass(kind)]
    optional = 0
    for record in kinds:
        hints = get_type_hints(record)
        for field in dataclasses.fields(record):
            hint = hints[field.name]
            is_union = get_origin(hint) in (Union, types.UnionType)
            if is_union and type(None) in get_args(hint):
                optional += 1
                assert field.default is None
    assert optional >= 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "is no TOML"),
        ("summary = 'x'", "'name' is missing"),
        ("name = 'x'\nsummary = 'x'\noptimizer = 3", "unknown setting 'optimizer'; did you mean 'optim'"),
        ("name = 'x'\nsummary = 'x'\noptim = 3", "optim must be a table"),
        ("name = 'x'\nsummary = 'x'\n[optim]\nlrate = 3", "'optim.lrate'; did you mean 'optim.lr'"),
        ("name = 'x'\nsummary = 'x'\n[optim]\nlr = '3'", "optim.lr must be a number, got '3'"),
        ("name = 'x'\nsummary = 'x'\n[optim]\nbatch_size = true", "must be an integer, got True"),
        ("name = 'x'\nsummary = 'x'\n[head.margin]\nname = 'arcfaze'", "did you mean 'arcface'"),
        ("name = 'x'\nsummary = 'x'\n[head.margin]\nname = 'mvarc'\nt = 0.2", "did you mean 1 \\+ t"),
        ("name = 'x'\nsummary = 'x'\n[head.margin]\nm = 0.2", "head.margin must be one of"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(text, message, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.toml"):
        get_recipe(tmp_path / "nowhere.toml")
