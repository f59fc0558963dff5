"""`--set key=value`: typed by the field, refused with the key, the value and the nearest name."""

import pytest

from fusedface.kernels import ArcFace, CurricularFace, MVArc
from fusedface.recipes.registry import get_recipe
from fusedface.recipes.settings import differences, override


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
