"""`--set key=value`: typed by the field, refused with the key, the value and the nearest name."""

from dataclasses import replace

import pytest

from fusedface.kernels import ArcFace, CurricularFace, MVArc
from fusedface.recipes.configuration.own_files import OwnFiles, with_data
from fusedface.recipes.configuration.settings import (
    differences,
    from_dict,
    override,
    read_recipe,
    to_dict,
    to_toml,
)
from fusedface.recipes.host.terminal import visible
from fusedface.recipes.registry import get_recipe


@pytest.fixture
def recipe():
    return get_recipe("mobilefacenet-curricular")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("optim.lr=0.05", 0.05),
        ("optim.lr=1", 1.0),
        ("optim.lr = 5e-2", 0.05),
        ("optim.batch_size=32", 32),
        ("train.channels_last=false", False),
        ("train.precision=float32", "float32"),
        ("backbone.input_size=[112, 96]", (112, 96)),
        ("schedule.steps=40", 40),
        ("schedule.steps=none", None),
        ("schedule.milestones=[0.5, 0.75]", (0.5, 0.75)),
        ("evaluation.pairs=a.csv, b=c.txt", ("a.csv", "b=c.txt")),
        ("evaluation.root=none", None),
        ("data.source=some folder", "some folder"),
        ("data.synthetic.num_identities=12", 12),
        ("head.margin.m=0.45", 0.45),
        ("head.margin=arcface", ArcFace()),
    ],
)
def test_values_are_typed(recipe, assignment, expected):
    value = override(recipe, [assignment])
    for name in assignment.split("=")[0].strip().split("."):
        value = getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)


def test_nothing_else_changes(recipe):
    changed = override(recipe, ["optim.lr=0.0625"])
    assert differences(changed, recipe) == [f"optim.lr: 0.0625 instead of {recipe.optim.lr}"]
    assert override(recipe, []) == recipe


def test_settings_apply_together_and_in_order(recipe):
    changed = override(recipe, ["head.margin=mvarc", "head.margin.t=1.3", "head.margin.m=0.4"])
    assert changed.head.margin == MVArc(m=0.4, t=1.3)
    again = override(recipe, ["head.margin.m=0.4", "head.margin=curricularface"])
    assert again.head.margin == CurricularFace()
    # A step schedule needs milestones: neither setting is valid alone.
    changed = override(recipe, ["schedule.kind=step", "schedule.milestones=[0.5]"])
    assert changed.schedule.milestones == (0.5,)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.lr", "must look like optim.lr=0.05, got 'optim.lr'"),
        ("optim.lrr=3", "unknown setting 'optim.lrr'; did you mean 'optim.lr'"),
        ("head.m=0.4", "unknown setting 'head.m'; did you mean 'head.margin.m'"),
        ("lr=0.4", "unknown setting 'lr'; did you mean 'optim.lr'"),
        ("optim.learning_rate=0.4", "'optim.learning_rate'; did you mean 'optim.lr'"),
        ("optim.wd=0.4", "did you mean 'optim.weight_decay'"),
        ("head.margin.m=0.3 # ../../x", "m must be a number, got '0.3 # ../../x'"),
        ("optim.lr=0.3\nother=1", "lr must be a number, got '0.3"),
        ("data.source=a\0b", "data.source must hold no zero byte"),
        ("optim=3", "optim is a group of settings"),
        ("optim.lr=fast", "optim.lr must be a number, got 'fast'"),
        ("optim.lr=-1", "optim.lr must be positive and finite, got -1.0"),
        ("optim.lr=inf", "optim.lr must be positive and finite, got inf"),
        ("optim.batch_size=1.5", "optim.batch_size must be an integer, got 1.5"),
        ("train.channels_last=yes", "train.channels_last must be true or false, got 'yes'"),
        ("train.precision=bf16", "must be one of .* got 'bf16'; did you mean 'bfloat16'"),
        (
            "backbone.input_size=112",
            "backbone.input_size must be 2 values, an integer each, got 112",
        ),
        ("backbone.name=mobilenet", "unknown backbone 'mobilenet'; did you mean 'mobilefacenet'"),
        ("head.margin=arcfac", "got 'arcfac'; did you mean 'arcface'"),
        ("head.margin.t=1.2", "unknown setting 'head.margin.t'"),
        ("head.margin.m=7", "head.margin: m must be an angle .* got 7.0"),
        ("optim.lr=none", "optim.lr must be a number, got 'none'"),
    ],
)
def test_mistakes_are_refused(recipe, assignment, message):
    with pytest.raises(ValueError, match=message):
        override(recipe, [assignment])


def numeric_settings(values, prefix=""):
    """The keys of all settings that are numbers, but those of the margin, which the margin checks."""
    for key, value in values.items():
        if isinstance(value, dict) and key != "margin":
            yield from numeric_settings(value, f"{prefix}{key}.")
        elif type(value) in (int, float):
            yield prefix + key


@pytest.mark.parametrize("value", ["1e300", "-1e300", "1" + 23 * "0", "1" + 400 * "0", "nan"])
def test_no_setting_takes_a_number_beyond_all_measure(recipe, value):
    keys = [*numeric_settings(to_dict(recipe)), "schedule.steps", "backbone.input_size"]
    assert len(keys) > 25
    for key in keys:
        if key == "head.focal_gamma" and value != "nan":
            continue  # the head's to check
        with pytest.raises(ValueError, match=key.rpartition(".")[2]):
            override(recipe, [f"{key}={value}"])


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/x",
        "a/b",
        "a\\b",
        "..",
        ".",
        "",
        " ",
        "-x",
        "a\x1b[2J",
        "a [/x]",
        "a\nb",
        "x.",
        "é" * 51,
    ],
)
def test_names_that_are_no_folder_are_refused(recipe, name):
    with pytest.raises(ValueError, match="name must be at most 100 bytes of letters"):
        replace(recipe, name=name)


@pytest.mark.parametrize("name", ["mobilefacenet-mvarc-t1.2", "My run (2)", "李雷 m=0.3", "x"])
def test_names_that_are_folders(recipe, name):
    assert from_dict(to_dict(replace(recipe, name=name))).name == name


def test_a_recipe_file_acts_on_no_terminal(recipe, tmp_path):
    changed = replace(recipe, summary="one \x1b[2J \x9b2J \u202e \udfff two".replace("\udfff", ""))
    text = to_toml(changed)
    assert all(letter == "\n" or visible(letter) == letter for letter in text)
    (tmp_path / "r.toml").write_text(text, "utf-8")
    assert read_recipe(tmp_path / "r.toml") == changed


def test_an_empty_path_is_refused(recipe):
    for arguments in (("", [], None), (None, [""], None), (None, ["a"], " ")):
        with pytest.raises(ValueError, match="an empty path"):
            with_data(recipe, *arguments)


def test_a_root_alone_is_that_of_the_recipes_own_lists(recipe, tmp_path):
    """It was passed over without a word."""
    with pytest.raises(ValueError, match="no list is given; give one with --pairs"):
        OwnFiles(root=tmp_path).given_to(recipe)
    listed = OwnFiles(pairs=["a.txt"]).given_to(recipe)
    moved = OwnFiles(root=tmp_path).given_to(listed)
    assert moved == replace(listed, evaluation=replace(listed.evaluation, root=str(tmp_path)))
